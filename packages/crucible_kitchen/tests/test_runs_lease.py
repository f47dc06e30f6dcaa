from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ConflictError, StorageError
from crucible_kitchen.runs.lease import Lease, LeaseSettings, Owner, owner_of

HOLD = """
import sys
from pathlib import Path
from crucible_kitchen.runs.lease import Lease
lease = Lease(Path(sys.argv[1]), run_id="r")
lease.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def no_locks(fd: int, how: int) -> None:
    raise OSError(errno.ENOLCK, "no locks here")


def broken(fd: int, how: int) -> None:
    raise OSError(errno.EIO, "broken")


def settings(host: str = "here", **changes: Any) -> LeaseSettings:
    return LeaseSettings(host=host, **changes)


def age(path: Path, seconds: float) -> None:
    state = path.stat()
    os.utime(path, (state.st_atime - seconds, state.st_mtime - seconds))


def test_a_lease_is_held_by_one_and_free_after_release(tmp_path: Path) -> None:
    path = tmp_path / "lease.lock"
    assert owner_of(path) is None
    with Lease(path, run_id="r") as lease:
        owner = owner_of(path)
        assert owner is not None
        assert owner.pid == os.getpid()
        with pytest.raises(ConflictError) as caught:
            Lease(path, run_id="r").acquire()
        told = str(caught.value)
        assert f"r is owned by process {os.getpid()} on " in told
        assert "crucible cancel r" in told
    lease.release()
    assert owner_of(path) is None
    with Lease(path, run_id="r"):
        pass


def test_kill_minus_9_frees_the_lease_of_another_process(tmp_path: Path) -> None:
    path = tmp_path / "lease.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        owner = owner_of(path)
        assert owner is not None
        assert owner.pid == process.pid
        with pytest.raises(ConflictError, match=f"process {process.pid} on"):
            Lease(path, run_id="r").acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert owner_of(path) is None
    with Lease(path, run_id="r"):
        assert str(owner_of(path)).startswith(f"process {os.getpid()} on")


def test_looking_at_a_lease_does_not_keep_it_from_being_taken(tmp_path: Path) -> None:
    path = tmp_path / "lease.lock"
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            owner_of(path)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(20):
            with Lease(path, run_id="r"):
                pass
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()


def test_the_lease_of_another_host_lives_by_its_heartbeat(tmp_path: Path) -> None:
    path = tmp_path / "lease.lock"
    path.write_text('{"pid": 7, "host": "far"}')
    assert owner_of(path, settings()) == Owner(pid=7, host="far")
    with pytest.raises(ConflictError, match="process 7 on far"):
        Lease(path, run_id="r", settings=settings()).acquire()
    age(path, 61)
    assert owner_of(path, settings()) is None
    with Lease(path, run_id="r", settings=settings()):
        assert owner_of(path, settings()) == Owner(pid=os.getpid(), host="here")


def test_without_locks_the_heartbeat_decides(tmp_path: Path) -> None:
    path = tmp_path / "lease.lock"
    lockless = settings(flock=no_locks)
    lease = Lease(path, run_id="r", settings=lockless)
    lease.acquire()
    assert owner_of(path, lockless) == Owner(pid=os.getpid(), host="here")
    with pytest.raises(ConflictError):
        Lease(path, run_id="r", settings=lockless).acquire()
    age(path, 61)
    assert owner_of(path, lockless) is None
    lease.release()
    assert owner_of(path, lockless) is None


def test_the_owner_renews_its_lease(tmp_path: Path, eventually: Callable[..., Any]) -> None:
    path = tmp_path / "lease.lock"
    with Lease(path, run_id="r", settings=settings(beat_s=0.001)):
        age(path, 1000)
        old = path.stat().st_mtime
        eventually(lambda: path.stat().st_mtime > old + 900)


def test_a_lost_file_does_not_stop_the_owner(tmp_path: Path, eventually: Callable[..., Any]) -> None:
    path = tmp_path / "lease.lock"
    with Lease(path, run_id="r", settings=settings(beat_s=0.001)):
        path.unlink()
        before = [t.name for t in threading.enumerate()]
        assert "lease-r" in before
    eventually(lambda: "lease-r" not in [t.name for t in threading.enumerate()])


@pytest.mark.parametrize("content", ["{", '{"pid": 1}', "", "[]"])
def test_an_unreadable_lease_that_is_not_locked_is_free(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lease.lock"
    path.write_text(content)
    assert owner_of(path) is None


def test_a_lease_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"the lease cannot be written: No such file"):
        Lease(tmp_path / "none" / "lease.lock", run_id="r").acquire()
    with pytest.raises(StorageError, match="broken"):
        Lease(tmp_path / "lease.lock", run_id="r", settings=settings(flock=broken)).acquire()


def test_an_owner_that_was_silent_too_long_sees_that_the_run_was_taken(
    tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    path = tmp_path / "lease.lock"
    with Lease(path, run_id="r", settings=settings(flock=no_locks, beat_s=0.001)) as lease:
        lease.check()
        path.write_text('{"pid": 7, "host": "far"}')

        def refused() -> bool:
            try:
                lease.check()
            except ConflictError as error:
                return "r was taken over by process 7 on far" in str(error)
            return False

        eventually(refused)
    assert path.read_text() == '{"pid": 7, "host": "far"}'
