"""The event log under corruption, redaction and its own costs."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_ir import EventType, IntegrityError, MetricRow
from crucible_telemetry import EventLog, LogSettings

AT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run-1" / "events.jsonl"


def open_log(path, **options):
    return EventLog(path, run_id="run-1", clock=lambda: AT, **options)


def filled(path, count):
    log = open_log(path)
    for n in range(count):
        log.append("x.y", {"n": n})
    log.close()
    return path.read_bytes()


def test_a_log_that_was_never_written_is_empty(path):
    assert open_log(path).read() == []
    assert not path.exists()


def test_each_event_is_one_line_of_json(path):
    filled(path, 2)
    first, second = path.read_text().splitlines()
    assert json.loads(first) == {
        "schema_version": 1,
        "seq": 1,
        "run_id": "run-1",
        "type": "x.y",
        "at": "2026-01-02T00:00:00Z",
        "data": {"n": 0},
    }
    assert json.loads(second)["seq"] == 2


@pytest.mark.parametrize("torn", [b'{"seq":4,"ru', b"{", b"\x00" * 70_000, "é".encode()[:1]])
def test_a_torn_last_line_is_cut_off_and_the_fact_is_kept(path, torn):
    before = filled(path, 3)
    path.write_bytes(before + torn)
    log = open_log(path)
    assert [event.seq for event in log.read()] == [1, 2, 3]
    assert log.append("x.after").seq == 5
    recovered = log.read()[3]
    assert recovered.type == "log.recovered"
    assert recovered.data == {"line": 4, "torn_bytes": len(torn)}
    assert path.read_bytes().startswith(before + b'{"schema_version"')


def test_a_log_that_is_nothing_but_a_torn_line_starts_anew(path):
    path.parent.mkdir()
    path.write_bytes(b'{"seq":1')
    log = open_log(path)
    assert log.append("x.y").seq == 2
    assert [event.type for event in log.read()] == ["log.recovered", "x.y"]


def test_an_unfinished_line_of_another_writer_is_not_read_and_not_lost(path):
    before = filled(path, 1)
    log = open_log(path)
    path.write_bytes(before + b'{"schema_version":1,"seq":2,"run_id":"run-1",')
    assert len(log.read()) == 1
    path.write_bytes(
        before + b'{"schema_version":1,"seq":2,"run_id":"run-1","type":"t","at":"2026-01-01T00:00:00Z"}\n'
    )
    assert [event.type for event in log.read(after=1)] == ["t"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda line: line[:-9] + b"\n", "line 2 is not an event"),
        (lambda line: b"\n", "line 2 is not an event"),
        (lambda line: line.replace(b'"seq":2', b'"seq":7'), "line 2 has seq 7, expected 2"),
        (lambda line: line.replace(b"run-1", b"run-9"), "line 2 belongs to run 'run-9', not 'run-1'"),
        (lambda line: b"", "line 2 has seq 3, expected 2"),
        (lambda line: line + line, "line 3 has seq 2, expected 3"),
    ],
)
def test_a_corrupt_line_in_the_middle_is_named(path, change, says):
    lines = filled(path, 4).splitlines(keepends=True)
    lines[1] = change(lines[1])
    path.write_bytes(b"".join(lines))
    with pytest.raises(IntegrityError, match=says) as caught:
        open_log(path).read()
    assert str(path) in str(caught.value)


def test_an_event_of_a_newer_schema_is_refused_with_the_remedy(path):
    path.write_bytes(filled(path, 1).replace(b'"schema_version":1', b'"schema_version":99'))
    with pytest.raises(IntegrityError, match="line 1 is not an event .*upgrade crucible-ir"):
        open_log(path).read()


def test_appending_after_a_corrupt_last_line_is_refused_and_names_it(path):
    before = filled(path, 3)
    path.write_bytes(before + b"garbage\n")
    with pytest.raises(IntegrityError, match="line 4 is not an event"):
        open_log(path).append("x.y")
    assert path.read_bytes() == before + b"garbage\n"


def test_a_log_that_got_shorter_under_a_writer_is_refused(path):
    log = open_log(path)
    log.append("x.y")
    log.append("x.y")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(IntegrityError, match="got shorter"):
        log.append("x.y")


def test_redaction_comes_before_writing(path):
    def redact(data):
        return {key: "[redacted]" if key == "key" else value for key, value in data.items()}

    log = open_log(path, redact=redact)
    assert log.append("x.y", {"key": "planted-secret", "n": 1}).data == {"key": "[redacted]", "n": 1}
    assert b"planted-secret" not in path.read_bytes()


def test_nothing_is_written_when_redaction_fails(path):
    def broken(data):
        raise RuntimeError("no")

    log = open_log(path, redact=broken)
    with pytest.raises(RuntimeError):
        log.append("x.y", {"key": "planted-secret"})
    assert not path.exists()


@pytest.mark.parametrize(("policy", "expected"), [("always", 4), ("milestones", 2), ("never", 0)])
def test_the_policy_says_which_events_wait_for_the_disk(path, monkeypatch, policy, expected):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    log = open_log(path, settings=LogSettings(fsync=policy))
    for kind in (EventType.RUN_STARTED, EventType.RUN_PROGRESS, "x.y", EventType.CHECKPOINT_SAVED):
        log.append(kind)
    assert len(synced) == expected


def test_polling_does_not_read_again_what_was_read(path):
    log = open_log(path)
    for _ in range(600):
        log.append("x.y")
    assert len(log.read()) == 600
    with path.open("r+b") as stream:
        stream.write(b"garbage!")
    log.append("x.z")
    assert [event.type for event in log.read(after=600)] == ["x.z"]
    assert [event.seq for event in log.read(after=598)] == [599, 600, 601]
    with pytest.raises(IntegrityError, match="line 1"):
        log.read()


def test_opening_for_append_reads_the_end_alone_however_long_the_log(path, monkeypatch):
    read = []
    real = os.pread

    def counting(fd, size, offset):
        data = real(fd, size, offset)
        read.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counting)
    costs = {}
    for count in (1_000, 20_000):
        line = filled(path, 1)
        lines = [line.replace(b'"seq":1,', b'"seq":%d,' % n) for n in range(1, count + 1)]
        path.write_bytes(b"".join(lines))
        read.clear()
        log = open_log(path)
        assert log.append("x.y").seq == count + 1
        assert log.append("x.y").seq == count + 2
        costs[count] = list(read)
        path.unlink()
    assert costs[1_000] == costs[20_000] == [65_536]


def test_a_last_line_longer_than_a_block_is_found(path):
    log = open_log(path)
    log.append("x.y", {"text": "a" * 200_000})
    log.append("x.y", {"text": "b" * 150_000})
    log.close()
    assert open_log(path).append("x.y").seq == 3


def test_a_reader_may_go_back_and_forth(path):
    line = filled(path, 1)
    path.write_bytes(b"".join(line.replace(b'"seq":1,', b'"seq":%d,' % n) for n in range(1, 2001)))
    log = open_log(path)
    assert len(log.read()) == 2000
    assert log.read(after=0, limit=3)[-1].seq == 3
    for after in (0, 1, 511, 512, 513, 1024, 1999):
        assert log.read(after=after, limit=1)[0].seq == after + 1


@pytest.fixture(scope="module")
def long_log(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "events.jsonl"
    line = filled(path, 1).replace(b'"n":0', b'"n":"%s"')
    generator = np.random.default_rng(1)
    lengths = generator.integers(0, 300, 5000)
    lengths[generator.integers(0, 5000, 5)] = 200_000
    with path.open("wb") as stream:
        for number, length in enumerate(lengths.tolist(), start=1):
            stream.write(line.replace(b'"seq":1,', b'"seq":%d,' % number) % (b"a" * length))
    return path


@given(after=st.integers(0, 5002), limit=st.none() | st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_a_fresh_reader_finds_any_event_of_a_long_log(long_log, after, limit):
    numbers = [event.seq for event in open_log(long_log).read(after=after, limit=limit or 40)]
    assert numbers == list(range(after + 1, 5001))[: limit or 40]


def test_a_fresh_reader_does_not_read_what_comes_before(path):
    line = filled(path, 1)
    path.write_bytes(b"".join(line.replace(b'"seq":1,', b'"seq":%d,' % n) for n in range(1, 30_001)))
    with path.open("r+b") as stream:
        stream.write(b"garbage!")
    assert [event.seq for event in open_log(path).read(after=29_998)] == [29_999, 30_000]
    with pytest.raises(IntegrityError, match="line 1"):
        open_log(path).read()


@pytest.mark.parametrize("garbage", [b"{", b"[]", b"{}", b'{"seq":"x"}', b"7"])
def test_a_search_that_meets_damage_ends_with_its_line(path, garbage):
    line = filled(path, 1)
    lines = [line.replace(b'"seq":1,', b'"seq":%d,' % n) for n in range(1, 3001)]
    lines[1400:1600] = [garbage + b" " * (len(lines[1500]) - len(garbage) - 1) + b"\n"] * 200
    path.write_bytes(b"".join(lines))
    with pytest.raises(IntegrityError, match="line 1401 is not an event"):
        open_log(path).read(after=2900)


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_any_json_comes_back_as_it_was(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    log = open_log(path)
    event = log.append("x.y", data)
    assert event.data == data
    assert open_log(path).read() == [event]


def test_text_that_is_not_unicode_is_shown_with_escapes(path):
    log = open_log(path)
    event = log.append("x.y", {"file": os.fsdecode(b"caf\xe9"), "é": "é"})
    assert event.data == {"file": "caf\\udce9", "é": "é"}
    assert log.read() == [event]


def test_paths_dates_tuples_and_sets_become_plain_json(path):
    log = open_log(path)
    event = log.append(
        "x.y",
        {
            "a": Path("b/c"),
            "at": AT,
            "t": (1, 2),
            "s": {3},
            "type": EventType.LOG,
            5: True,
            "row": MetricRow(step=1, metrics={"a": 1.0}),
        },
    )
    expected = {
        "a": "b/c",
        "at": "2026-01-02T00:00:00+00:00",
        "t": [1, 2],
        "s": [3],
        "type": "log",
        "5": True,
        "row": {"step": 1, "metrics": {"a": 1.0}, "time_s": None},
    }
    assert event.data == expected
    assert log.read() == [event]
