"""A file that grows by whole lines and is never left with half a line by a failed write."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from crucible_ir.errors import StorageError

__all__ = ["AppendFile"]

_BLOCK = 1 << 16


class AppendFile:
    """An append-only file, opened at first use; parents are made. Its costs do not grow with its length.

    ``write`` stands in for ``os.write`` where a fault is to be made.
    """

    def __init__(self, path: Path, *, write: Callable[[int, bytes], int] = os.write) -> None:
        self.path = path
        self._write = write
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        """The open file's descriptor.

        Raises:
            StorageError: the file cannot be opened for writing, or was removed since it was opened.
        """
        if self._fd is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise self._refusal("cannot be opened for writing", error) from error
        return self._fd

    def size(self) -> int:
        """Bytes in the file.

        Raises:
            StorageError: it was removed while open.
        """
        state = os.fstat(self.fd)
        if state.st_nlink == 0:
            raise StorageError(
                what="the file was removed while it was written to",
                where=str(self.path),
                remedy="do not delete the folder of a run that is running",
            )
        return state.st_size

    def append(self, line: bytes, *, sync: bool = False) -> None:
        """Write ``line`` (one newline, at its end) in one call; a part that got through is taken back.

        Raises:
            StorageError: full or read-only disk, file-size limit …; the file is as it was.
        """
        start = self.size()
        try:
            written = self._write(self.fd, line)
            if written == len(line):
                if sync:
                    os.fsync(self.fd)
                return
            reason: OSError | None = None
        except OSError as error:
            written, reason = 0, error
        with suppress(OSError):
            os.ftruncate(self.fd, start)
        if reason is None:
            raise self._refusal(f"took {written} of {len(line)} bytes (the disk is full)", None)
        raise self._refusal("cannot be written", reason) from reason

    def last_line(self, size: int) -> tuple[int, bytes | None]:
        """End of the last complete line within the first ``size`` bytes, and that line (None if there is none).

        Reads from the end backwards, so that the cost depends on the last line alone.
        """
        tail, start = b"", size
        end: int | None = None
        while start > 0:
            step = min(_BLOCK, start)
            start -= step
            tail = os.pread(self.fd, step, start) + tail
            if end is None:
                found = tail.rfind(b"\n")
                if found < 0:
                    continue
                end = start + found + 1
            before = tail.rfind(b"\n", 0, end - start - 1)
            if before >= 0:
                return end, tail[before + 1 : end - start - 1]
        if end is None:
            return 0, None
        return end, tail[: end - 1]

    def cut(self, size: int) -> None:
        """Keep the first ``size`` bytes.

        Raises:
            StorageError: the file cannot be changed.
        """
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            raise self._refusal("cannot be shortened", error) from error

    def sync(self) -> None:
        """Return once everything is on durable storage.

        Raises:
            StorageError: the disk reports that it could not write.
        """
        if self._fd is None:
            return
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._refusal("cannot be synchronised", error) from error

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _refusal(self, what: str, error: OSError | None) -> StorageError:
        reason = f": {error.strerror or error}" if error is not None else ""
        return StorageError(
            what=f"{what}{reason}",
            where=str(self.path),
            remedy="free space or make the folder writable, then resume; complete lines are intact",
        )
