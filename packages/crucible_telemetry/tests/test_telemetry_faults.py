"""Full and read-only disks, removed files, held and missing locks, killed writers: with real files and processes."""

import errno
import os
import signal
import subprocess
import sys
from functools import partial

import pytest

import crucible_telemetry.events.log as log_module
from crucible_ir import ConflictError, MetricRow, StorageError
from crucible_telemetry import EventLog, JsonlMetricsStore, LogSettings, SqliteMetricsStore
from crucible_telemetry.append_file import AppendFile
from crucible_telemetry.exclusion import exclusive


def run_python(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    return out


APPEND = """
import sys
from pathlib import Path
from crucible_telemetry import EventLog
log = EventLog(Path(sys.argv[1]), run_id="r")
for n in range(int(sys.argv[3])):
    log.append("x." + sys.argv[2], {"n": n})
"""


def test_processes_that_append_at_once_share_one_sequence_and_lose_nothing(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path, run_id="r")
    others = [run_python(APPEND, path, name, 120) for name in "abc"]
    for n in range(120):
        log.append("x.here", {"n": n})
    for process in others:
        finished(process)
    events = log.read()
    assert [event.seq for event in events] == list(range(1, 481))
    for name in ("a", "b", "c", "here"):
        assert [event.data["n"] for event in events if event.type == "x." + name] == list(range(120))


def test_a_request_from_another_process_comes_between_our_events(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path, run_id="r")
    log.append("x.before")
    finished(run_python(APPEND, path, "cancel", 1))
    assert log.append("x.after").seq == 3
    assert [event.type for event in log.read()] == ["x.before", "x.cancel", "x.after"]


ENDLESS = """
import sys
from pathlib import Path
from crucible_ir import MetricRow
from crucible_telemetry import EventLog, JsonlMetricsStore, SqliteMetricsStore
root = Path(sys.argv[1])
log = EventLog(root / "events.jsonl", run_id="r")
stores = [JsonlMetricsStore(root=root), SqliteMetricsStore(root=root)]
n = 0
while True:
    for store in stores:
        store.log("r", MetricRow(step=n, metrics={"loss": 1 / (n + 1)}))
    log.append("x.y", {"n": n, "text": "a" * 3000})
    n += 1
    print(n, flush=True)
"""


@pytest.mark.parametrize("count", [1, 17, 90])
def test_a_killed_writer_loses_nothing_it_had_reported(tmp_path, count):
    process = run_python(ENDLESS, tmp_path)
    for _ in range(count):
        reported = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    log = EventLog(tmp_path / "events.jsonl", run_id="r")
    written = len(log.read())
    assert written >= reported
    log.append("x.resumed")
    events = log.read()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    for store in (JsonlMetricsStore(root=tmp_path), SqliteMetricsStore(root=tmp_path)):
        rows = store.read("r")
        assert [row.step for row in rows] == list(range(len(rows)))
        assert len(rows) >= reported
        store.close()


LIMITED = """
import resource, sys
from pathlib import Path
from crucible_ir import MetricRow, StorageError
from crucible_telemetry import EventLog, JsonlMetricsStore
root = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
log = EventLog(root / "events.jsonl", run_id="r")
store = JsonlMetricsStore(root=root)
counts = []
for write in (lambda n: log.append("x.y", {"n": n}), lambda n: store.log("r", MetricRow(step=n, metrics={"a": n / 7}))):
    n = 0
    try:
        while True:
            write(n)
            n += 1
    except StorageError as error:
        assert "complete lines are intact" in str(error), error
        counts.append(n)
assert len(log.read()) == counts[0] and len(store.read("r")) == counts[1]
print(*counts)
"""


def test_a_file_that_may_not_grow_keeps_its_whole_lines_and_goes_on_later(tmp_path):
    events, rows = map(int, finished(run_python(LIMITED, tmp_path)).split())
    assert events > 10
    assert rows > 10
    log = EventLog(tmp_path / "events.jsonl", run_id="r")
    assert log.append("x.y", {}).seq == events + 1
    assert "log.recovered" not in {event.type for event in log.read()}
    store = JsonlMetricsStore(root=tmp_path)
    store.log("r", MetricRow(step=rows, metrics={}))
    assert [row.step for row in store.read("r")] == list(range(rows + 1))


class FullDisk:
    """``os.write`` on a disk that takes a part of a line, then nothing, until it is freed."""

    def __init__(self, fault):
        self.full = False
        self.fault = fault

    def __call__(self, fd, data):
        if not self.full:
            return os.write(fd, data)
        os.write(fd, data[: len(data) // 2])
        if self.fault is None:
            return len(data) // 2
        raise OSError(self.fault, os.strerror(self.fault))


@pytest.mark.parametrize("fault", [None, errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_write_that_fails_half_way_is_taken_back(tmp_path, fault):
    disk = FullDisk(fault)
    path = tmp_path / "events.jsonl"
    log = EventLog(path, run_id="r", settings=LogSettings(write=disk))
    store = JsonlMetricsStore(root=tmp_path, write=disk)
    log.append("x.y")
    store.log("r", MetricRow(step=0, metrics={"a": 1.0}))
    before = path.read_bytes(), store.path("r").read_bytes()
    disk.full = True
    for _ in range(2):
        with pytest.raises(StorageError, match="free space"):
            log.append("x.y")
        with pytest.raises(StorageError, match="free space"):
            store.log("r", MetricRow(step=1, metrics={"a": 1.0}))
    assert (path.read_bytes(), store.path("r").read_bytes()) == before
    assert len(log.read()) == len(store.read("r")) == 1
    disk.full = False
    assert log.append("x.y").seq == 2
    store.log("r", MetricRow(step=1, metrics={"a": 1.0}))
    assert len(store.read("r")) == 2


def test_a_fault_of_synchronising_takes_the_line_back(tmp_path, monkeypatch):
    log = EventLog(tmp_path / "events.jsonl", run_id="r", settings=LogSettings(fsync="always"))
    log.append("x.y")

    def broken(fd):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError, match="input/output error"):
        log.append("x.y")
    file = AppendFile(tmp_path / "other")
    file.append(b"x\n")
    with pytest.raises(StorageError, match="synchronised"):
        file.sync()
    monkeypatch.undo()
    assert log.append("x.y").seq == 2


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="file"):
        EventLog(tmp_path / "file" / "events.jsonl", run_id="r").append("x.y")
    with pytest.raises(StorageError, match="file"):
        JsonlMetricsStore(root=tmp_path / "file").log("r", MetricRow(step=0, metrics={}))
    with pytest.raises(StorageError, match="file"):
        SqliteMetricsStore(root=tmp_path / "file").log("r", MetricRow(step=0, metrics={}))

    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(StorageError, match="Read-only file system"):
        EventLog(tmp_path / "events.jsonl", run_id="r").append("x.y")


def test_a_log_removed_while_open_is_noticed(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path, run_id="r")
    log.append("x.y")
    path.unlink()
    with pytest.raises(StorageError, match="removed"):
        log.append("x.y")


def test_a_file_that_cannot_be_shortened_is_a_storage_error(tmp_path, monkeypatch):
    file = AppendFile(tmp_path / "f")
    file.append(b"x\n")

    def refuse(fd, size):
        raise OSError(errno.EPERM, "append-only")

    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(StorageError, match="shortened"):
        file.cut(0)


HOLD = """
import fcntl, sys
stream = open(sys.argv[1], "a")
fcntl.flock(stream, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_log_held_by_another_process_is_a_conflict_after_the_limit(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path, run_id="r", settings=LogSettings(lock_timeout_s=0.05))
    log.append("x.y")
    process = run_python(HOLD, path)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ConflictError, match=r"0\.05 s"):
        log.append("x.y")
    assert len(log.read()) == 1
    process.communicate("", timeout=60)
    assert log.append("x.y").seq == 2


def without_locks(fd, operation):
    raise OSError(errno.ENOLCK, "No locks available")


def test_without_locks_a_lock_file_stands_in(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "exclusive", partial(exclusive, flock=without_locks))
    path = tmp_path / "events.jsonl"
    log = EventLog(path, run_id="r", settings=LogSettings(lock_timeout_s=0.0))
    assert log.append("x.y").seq == 1
    assert [file.name for file in tmp_path.iterdir()] == ["events.jsonl"]
    lock = tmp_path / "events.jsonl.lock"
    lock.write_text("process 77 on elsewhere")
    with pytest.raises(ConflictError, match=r"process 77 on elsewhere.*delete this file"):
        log.append("x.y")
    assert lock.exists()
    lock.unlink()
    assert log.append("x.y").seq == 2


def test_a_lock_file_with_nobody_named_is_still_a_conflict(tmp_path, monkeypatch):
    (tmp_path / "f.lock").mkdir()
    with (
        pytest.raises(ConflictError, match="just let go"),
        exclusive(0, tmp_path / "f", timeout_s=0.01, flock=without_locks),
    ):
        pytest.fail("the block must not run")


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path):
    with (
        pytest.raises(StorageError, match="cannot be made"),
        exclusive(0, tmp_path / "absent" / "f", timeout_s=0.0, flock=without_locks),
    ):
        pytest.fail("the block must not run")

    def broken(fd, operation):
        raise OSError(errno.EIO, "input/output error")

    with (
        pytest.raises(StorageError, match="input/output error"),
        exclusive(0, tmp_path / "f", timeout_s=0.0, flock=broken),
    ):
        pytest.fail("the block must not run")


def test_threads_without_locks_still_go_one_by_one(tmp_path):
    import threading

    inside, most = [], []

    def enter():
        with exclusive(0, tmp_path / "f", timeout_s=30, flock=without_locks):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
