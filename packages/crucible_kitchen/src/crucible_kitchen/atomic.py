"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from crucible_ir import StorageError

__all__ = ["read_lines", "storage_error", "write_atomic", "write_lines"]

_REMEDY = {
    errno.ENOSPC: "free some space on the disk",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "give CRUCIBLE_HOME a folder that can be written",
    errno.EACCES: "give CRUCIBLE_HOME a folder that can be written",
}


def storage_error(error: OSError, path: Path) -> StorageError:
    """The StorageError that tells which file could not be written and what to do about it."""
    reason = error.strerror or str(error)
    remedy = _REMEDY.get(error.errno or 0, "look at the disk")
    return StorageError(what=f"cannot write: {reason}", where=str(path), remedy=remedy)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, bring it to the disk, and put it in place in one step.

    Raises:
        StorageError: the disk is full or read-only; what stood at ``path`` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise storage_error(error, path) from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """``write_atomic`` of text lines in UTF-8, each ended by a newline."""
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode())


def read_lines(path: Path) -> list[str]:
    """The lines that ``write_lines`` wrote.

    They end at a newline alone: what a model says may hold other separators (U+0085, U+2028), which JSON does not
    escape and ``str.splitlines`` would break at.
    """
    text = path.read_bytes().decode()
    return text.removesuffix("\n").split("\n") if text else []
