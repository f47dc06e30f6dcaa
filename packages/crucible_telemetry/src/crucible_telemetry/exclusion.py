"""One writer at a time, between processes, also where the filesystem knows no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from crucible_ir.errors import ConflictError, StorageError

__all__ = ["exclusive"]

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_BUSY = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES})
_PAUSE_S = 0.002


@contextmanager
def exclusive(
    fd: int, path: Path, *, timeout_s: float, flock: Callable[[int, int], None] = fcntl.flock
) -> Iterator[None]:
    """Hold the file open at ``fd`` alone for the time of the block; ends with the process, however it ends.

    Where the filesystem has no locks, a file ``<name>.lock`` made exclusively stands in; it names its
    owner, and one left behind by a crash has to be deleted by hand.

    Raises:
        ConflictError: another process held it for ``timeout_s`` seconds.
        StorageError: the lock cannot be made at all.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno in _NO_LOCKS:
                with _lock_file(path.with_name(path.name + ".lock"), deadline, timeout_s):
                    yield
                return
            if error.errno not in _BUSY:
                raise StorageError(
                    what=f"cannot be locked: {error.strerror or error}",
                    where=str(path),
                    remedy="keep runs on a filesystem with locks",
                ) from error
        if time.monotonic() >= deadline:
            raise ConflictError(
                what=f"another process has held it for more than {timeout_s:g} s",
                where=str(path),
                remedy="end that process, or wait and try again",
            )
        time.sleep(_PAUSE_S)
    try:
        yield
    finally:
        flock(fd, fcntl.LOCK_UN)


@contextmanager
def _lock_file(lock: Path, deadline: float, timeout_s: float) -> Iterator[None]:
    while True:
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            break
        except FileExistsError:
            if time.monotonic() >= deadline:
                raise ConflictError(
                    what=f"held by {_owner(lock)} for more than {timeout_s:g} s",
                    where=str(lock),
                    remedy="if that process is gone, delete this file",
                ) from None
            time.sleep(_PAUSE_S)
        except OSError as error:
            raise StorageError(
                what=f"cannot be made: {error.strerror or error}",
                where=str(lock),
                remedy="make the folder writable",
            ) from error
    try:
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        os.close(handle)
        yield
    finally:
        lock.unlink(missing_ok=True)


def _owner(lock: Path) -> str:
    try:
        return lock.read_text(encoding="utf-8") or "an unnamed process"
    except OSError:
        return "a process that has just let go"
