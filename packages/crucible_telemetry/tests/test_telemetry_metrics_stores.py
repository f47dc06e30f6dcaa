"""What the stores write, and what they do with files that are damaged, held or full."""

import os
import sqlite3
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import ConfigError, ConflictError, IntegrityError, MetricRow, StorageError
from crucible_telemetry import JsonlMetricsStore, MemoryMetricsStore, NoopMetricsStore, SqliteMetricsStore
from crucible_telemetry.metrics.rows import row_of, row_text
from crucible_telemetry.plain_json import float_of, json_number


def row(step, **metrics):
    return MetricRow(step=step, metrics=metrics or {"a": 1.0})


def test_a_row_is_one_short_line(tmp_path):
    store = JsonlMetricsStore(root=tmp_path)
    store.log("run-1", MetricRow(step=3, time_s=1.25, metrics={"train/nll": 0.1, "n": 2}))
    text = (tmp_path / "run-1" / "metrics.jsonl").read_text()
    assert text == '{"step":3,"time_s":1.25,"metrics":{"train/nll":0.1,"n":2.0}}\n'


@given(st.floats())
def test_every_float_comes_back_with_its_bits(value):
    back = row_of(row_text(MetricRow(step=0, metrics={"m": value})), where="x").metrics["m"]
    assert back != back if value != value else struct.pack("d", back) == struct.pack("d", value)


@pytest.mark.parametrize("value", [True, None, [1], "nan?", "1.0"])
def test_what_is_no_number_is_not_read_as_one(value):
    with pytest.raises(ValueError, match="not a number"):
        float_of(value)


def test_an_infinity_has_its_sign():
    assert [json_number(float(text)) for text in ("inf", "-inf", "1.5")] == ["Infinity", "-Infinity", 1.5]


@pytest.mark.parametrize(
    "line", ["{", "[]", "7", '{"step":1}', '{"step":-1,"metrics":{}}', '{"step":1,"metrics":{"a":"x"}}', ""]
)
def test_a_damaged_line_is_named(tmp_path, line):
    store = JsonlMetricsStore(root=tmp_path)
    store.log("r", row(0))
    store.path("r").write_text(row_text(row(0)) + "\n" + line + "\n" + row_text(row(2)) + "\n")
    with pytest.raises(IntegrityError, match=r"metrics\.jsonl, line 2"):
        store.read("r")


def test_a_torn_last_line_is_not_read_and_is_cut_off_by_the_next_row(tmp_path):
    store = JsonlMetricsStore(root=tmp_path)
    store.log("r", row(0))
    store.close()
    whole = store.path("r").read_bytes()
    store.path("r").write_bytes(whole + whole[:11])
    again = JsonlMetricsStore(root=tmp_path)
    assert again.read("r") == [row(0)]
    assert again.position("r") == 1
    again.log("r", row(1))
    assert again.read("r") == [row(0), row(1)]


def test_truncating_drops_a_torn_line_too(tmp_path):
    store = JsonlMetricsStore(root=tmp_path)
    store.log("r", row(0))
    store.close()
    whole = store.path("r").read_bytes()
    store.path("r").write_bytes(whole + whole[:11])
    again = JsonlMetricsStore(root=tmp_path)
    again.truncate("r", 1)
    assert store.path("r").read_bytes() == whole


def test_logging_a_row_is_one_write_and_waits_for_no_disk(tmp_path, monkeypatch):
    writes, waits = [], []

    def counting(fd, data):
        writes.append(len(data))
        return os.write(fd, data)

    monkeypatch.setattr(os, "fsync", waits.append)
    monkeypatch.setattr(os, "pread", lambda *args: pytest.fail("the file is not read"))
    store = JsonlMetricsStore(root=tmp_path, write=counting)
    for step in range(50):
        store.log("r", row(step))
    assert len(writes) == 50
    assert waits == []
    store.flush()
    assert len(waits) == 1
    monkeypatch.undo()
    assert len(store.read("r")) == 50


def test_position_counts_rows_of_another_writer_too(tmp_path):
    one, two = JsonlMetricsStore(root=tmp_path), JsonlMetricsStore(root=tmp_path)
    one.log("r", row(0))
    assert one.position("r") == 1
    two.log("r", row(1))
    assert one.position("r") == 2


@pytest.mark.parametrize("run_id", ["", ".", "..", "a/b", "../a", "a\\b", "a\0b"])
@pytest.mark.parametrize(
    "store_type", [JsonlMetricsStore, SqliteMetricsStore, MemoryMetricsStore, NoopMetricsStore]
)
def test_a_run_id_cannot_leave_the_folder(tmp_path, store_type, run_id):
    store = store_type(root=tmp_path)
    with pytest.raises(ConfigError, match="run_id"):
        store.log(run_id, row(0))
    store.close()


def test_two_handles_on_one_sqlite_file_number_rows_without_a_clash(tmp_path):
    one, two = SqliteMetricsStore(root=tmp_path), SqliteMetricsStore(root=tmp_path)
    for step in range(10):
        one.log("r", row(2 * step))
        two.log("r", row(2 * step + 1))
    assert [r.step for r in one.read("r")] == list(range(20))
    one.close()
    two.close()


def test_a_batch_is_committed_when_it_is_full_or_asked_for(tmp_path):
    writer, reader = SqliteMetricsStore(root=tmp_path, batch_rows=3), SqliteMetricsStore(root=tmp_path)
    writer.log("r", row(0))
    writer.log("r", row(1))
    assert reader.read("r") == []
    writer.log("r", row(2))
    assert len(reader.read("r")) == 3
    writer.log("r", row(3))
    writer.flush()
    assert len(reader.read("r")) == 4
    writer.close()
    reader.close()


def test_a_held_sqlite_file_is_a_conflict_and_the_refused_row_is_not_kept(tmp_path):
    store = SqliteMetricsStore(root=tmp_path, lock_timeout_s=0.02)
    store.log("r", row(0))
    holder = sqlite3.connect(store.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ConflictError, match="another process"):
        store.log("r", row(1))
    holder.execute("ROLLBACK")
    holder.close()
    store.log("r", row(2))
    assert [r.step for r in store.read("r")] == [0, 2]
    store.close()


def test_a_full_sqlite_file_keeps_what_was_committed(tmp_path):
    store = SqliteMetricsStore(root=tmp_path)
    store.log("r", row(0))
    store._open().execute("PRAGMA max_page_count = 3").fetchall()
    wide = {f"metric_{n}": 1 / 3 for n in range(20)}

    def fill():
        for step in range(1, 500):
            store.log("r", row(step, **wide))

    with pytest.raises(StorageError, match="full"):
        fill()
    kept = store.read("r")
    assert [r.step for r in kept] == list(range(len(kept)))
    store._open().execute("PRAGMA max_page_count = 1000000").fetchall()
    store.log("r", row(len(kept)))
    assert len(store.read("r")) == len(kept) + 1
    store.close()


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "metrics.sqlite").write_bytes(b"this is text, not a database" * 100)
    store = SqliteMetricsStore(root=tmp_path)
    with pytest.raises(IntegrityError, match=r"metrics\.sqlite"):
        store.read("r")
    store.close()


def test_a_damaged_sqlite_row_is_named(tmp_path):
    store = SqliteMetricsStore(root=tmp_path)
    store.log("r", row(0))
    store._open().execute("UPDATE metric_rows SET row = '{'")
    with pytest.raises(IntegrityError, match="r row 0"):
        store.read("r")
    store.close()


def test_flushing_a_store_that_was_never_used_makes_no_file(tmp_path):
    for store in (JsonlMetricsStore(root=tmp_path), SqliteMetricsStore(root=tmp_path)):
        store.flush()
        store.close()
    assert list(tmp_path.iterdir()) == []


def test_a_sqlite_file_in_a_folder_that_is_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "metrics.sqlite").mkdir()
    store = SqliteMetricsStore(root=tmp_path)
    with pytest.raises(StorageError, match="unable to open"):
        store.log("r", row(0))
    store.close()


def test_a_file_that_another_process_is_setting_up_is_waited_for(tmp_path, monkeypatch):
    refusals = iter([True, True, False])
    closed = []

    class Busy(sqlite3.Connection):
        def execute(self, sql, *rest):
            if "journal_mode" in sql and next(refusals, False):
                raise sqlite3.OperationalError("database is locked")
            return super().execute(sql, *rest)

        def close(self):
            closed.append(self)
            super().close()

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: real(*args, **options, factory=Busy))
    store = SqliteMetricsStore(root=tmp_path)
    store.log("r", row(0))
    store.close()
    assert len(closed) == 3
    refusals = iter([True] * 100)
    impatient = SqliteMetricsStore(root=tmp_path, lock_timeout_s=0.0)
    with pytest.raises(ConflictError, match="another process"):
        impatient.position("r")
