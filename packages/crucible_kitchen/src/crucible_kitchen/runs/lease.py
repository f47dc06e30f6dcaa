"""The lease: one owner per run, and a way for others to see that the owner is gone.

The file ``lease.lock`` names its owner and is locked while the owner lives; the kernel drops the lock with
the process, however that ends. Where locks do not reach (another host on a network filesystem, a
filesystem without locks) the file's modification time, renewed by a thread of the owner, stands in.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from crucible_ir.errors import ConflictError, StorageError

__all__ = ["Lease", "LeaseSettings", "Owner", "owner_of"]

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that holds, or held, a run."""

    pid: int
    host: str

    def __str__(self) -> str:
        """``process 12 on host``."""
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """How a lease is kept and judged.

    ``beat_s``: how often the owner renews it. ``lost_after_s``: age at which an unlocked lease of another
    host counts as lost. ``flock``, ``now`` (unix seconds) and ``host`` stand in for the system's.
    """

    beat_s: float = 5.0
    lost_after_s: float = 60.0
    flock: Callable[[int, int], None] = fcntl.flock
    now: Callable[[], float] = time.time
    host: str = socket.gethostname()


def _read(fd: int) -> Owner | None:
    try:
        data = json.loads(os.pread(fd, 4096, 0) or b"null")
        return Owner(pid=int(data["pid"]), host=str(data["host"])) if data else None
    except (ValueError, KeyError, TypeError):
        return None


def _fresh(fd: int, settings: LeaseSettings) -> bool:
    return settings.now() - os.fstat(fd).st_mtime < settings.lost_after_s


def _lock(fd: int, how: int, settings: LeaseSettings) -> bool | None:
    """True: locked. False: another open file holds it. None: this filesystem has no locks."""
    try:
        settings.flock(fd, how | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        if isinstance(error, BlockingIOError) or error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise


def _other_owner(fd: int, locked: bool | None, settings: LeaseSettings) -> Owner | None:
    """The living owner of an open lease file, given what trying to lock it told."""
    owner = _read(fd)
    if locked is False:
        return owner or Owner(pid=0, host="an unknown host")
    if owner is None or (locked and owner.host == settings.host):
        return None
    return owner if _fresh(fd, settings) else None


def owner_of(path: Path, settings: LeaseSettings | None = None) -> Owner | None:
    """The living owner of the lease file ``path``, or None. Never changes the file."""
    settings = settings or LeaseSettings()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _other_owner(fd, _lock(fd, fcntl.LOCK_SH, settings), settings)
    finally:
        os.close(fd)


class Lease:
    """Held from ``acquire`` (or ``with``) to ``release``; renewed by a daemon thread."""

    def __init__(self, path: Path, *, run_id: str, settings: LeaseSettings | None = None) -> None:
        self.path = path
        self.run_id = run_id
        self._settings = settings or LeaseSettings()
        self._fd: int | None = None
        self._stop = threading.Event()
        self._taken_by: Owner | None = None

    def __enter__(self) -> Self:
        """Acquire."""
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release."""
        self.release()

    def acquire(self) -> None:
        """Become the owner.

        Raises:
            ConflictError: another process owns the run; names it.
            StorageError: the lease file cannot be written.
        """
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._refusal(error) from error
        try:
            owner = self._contend(fd)
            if owner is not None:
                raise ConflictError(
                    what=f"{self.run_id} is owned by {owner}",
                    where=str(self.path),
                    remedy=f"wait for it, follow it with `crucible logs -f {self.run_id}`, "
                    f"or stop it with `crucible cancel {self.run_id}`",
                )
            self._sign(fd)
        except OSError as error:
            os.close(fd)
            raise self._refusal(error) from error
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._stop.clear()
        threading.Thread(target=self._beat, args=(fd,), name=f"lease-{self.run_id}", daemon=True).start()

    def release(self) -> None:
        """Let go; releasing twice is harmless."""
        if self._fd is None:
            return
        self._stop.set()
        fd, self._fd = self._fd, None
        try:
            if self._taken_by is None:
                os.ftruncate(fd, 0)
        except OSError:
            pass  # a disk that refuses even this leaves the name of a process that is gone
        finally:
            os.close(fd)

    def check(self) -> None:
        """Look whether the lease is still ours; costs nothing.

        Raises:
            ConflictError: this process was silent for so long that another one took the run.
        """
        if self._taken_by is not None:
            raise ConflictError(
                what=f"{self.run_id} was taken over by {self._taken_by} while this process was silent",
                where=str(self.path),
                remedy=f"leave it to that process; `crucible show {self.run_id}` follows it",
            )

    def _contend(self, fd: int) -> Owner | None:
        """Lock the file; a reader that only looks may hold it for a moment, so try for a short while."""
        deadline = time.monotonic() + 0.5
        while True:
            locked = _lock(fd, fcntl.LOCK_EX, self._settings)
            owner = _other_owner(fd, locked, self._settings)
            if owner is None or locked is not False or time.monotonic() > deadline:
                return owner
            time.sleep(0.01)

    @property
    def _me(self) -> Owner:
        return Owner(pid=os.getpid(), host=self._settings.host)

    def _sign(self, fd: int) -> None:
        text = json.dumps({"pid": self._me.pid, "host": self._me.host}).encode()
        os.ftruncate(fd, 0)
        os.pwrite(fd, text, 0)

    def _beat(self, fd: int) -> None:
        while not self._stop.wait(self._settings.beat_s):
            if self._fd != fd:
                return
            try:
                owner = _read(fd)
                if owner is not None and owner != self._me:
                    self._taken_by = owner
                    return
                os.utime(self.path)
            except OSError:
                continue  # a full or vanished filesystem: the next beat may go through

    def _refusal(self, error: OSError) -> StorageError:
        return StorageError(
            what=f"the lease cannot be written: {error.strerror or error}",
            where=str(self.path),
            remedy="free space or make the folder writable",
        )
