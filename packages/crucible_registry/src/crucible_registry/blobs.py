"""Bytes on the local disk, named by their digest."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from crucible_ir.canonical import digest_bytes
from crucible_ir.errors import DataError, IntegrityError, NotFoundError, StorageError

__all__ = ["LocalBlobStore", "check_digest", "missing_blob"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK = 1 << 20


def check_digest(digest: str) -> str:
    """The 64 hex digits of ``digest``.

    Raises:
        DataError: it is not ``sha256:`` and 64 lower-case hex digits.
    """
    if _DIGEST.fullmatch(digest) is None:
        raise DataError(
            what=f"{digest[:80]!r} is not a digest",
            where="digest",
            remedy="give sha256: and 64 lower-case hex digits",
        )
    return digest.removeprefix("sha256:")


def missing_blob(digest: str, where: str) -> NotFoundError:
    """The refusal of a digest under which nothing is kept."""
    return NotFoundError(what=f"there is no blob {digest}", where=where, remedy="put it first")


class LocalBlobStore:
    """``root/sha256/ab/abcdef…``; fits ``BlobStore``.

    A blob is written beside its place and put there whole, so that a reader, a crash or a full disk never
    meets half of one. Blobs are read-only files. Every read is checked against the digest; putting the right bytes
    again replaces a damaged blob.
    """

    def __init__(self, *, root: Path) -> None:
        self.root = Path(root)

    def path(self, digest: str) -> Path:
        """Where the blob stands, or would.

        Raises:
            DataError: not a digest.
        """
        name = check_digest(digest)
        return self.root / "sha256" / name[:2] / name

    def put(self, data: bytes) -> str:
        """Keep ``data`` and return its digest.

        Raises:
            StorageError: full or read-only disk; nothing partial is left.
        """
        digest = digest_bytes(data)
        if not self._intact(digest):
            with self._part() as (stream, part):
                stream.write(data)
                self._place(stream, part, digest)
        return digest

    def put_file(self, path: Path) -> str:
        """Keep the content of a file and return its digest; read in pieces of 1 MiB.

        Raises:
            NotFoundError: there is no such file.
            StorageError: as for ``put``.
        """
        try:
            source = path.open("rb")
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFoundError(
                what="there is no such file", where=str(path), remedy="give a file"
            ) from error
        with source, self._part() as (stream, part):
            digest = _copy(source, stream.write)
            if not self._intact(digest):
                self._place(stream, part, digest)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes, checked.

        Raises:
            NotFoundError: no such blob.
            IntegrityError: they are not those that were put.
        """
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise missing_blob(digest, str(self.root)) from None
        if digest_bytes(data) != digest:
            raise self._damaged(path)
        return data

    def fetch(self, digest: str, destination: Path) -> Path:
        """Write the bytes to ``destination``, which appears whole and checked or not at all.

        Raises:
            NotFoundError: no such blob.
            IntegrityError: the bytes are not those that were put.
            StorageError: ``destination`` cannot be written.
        """
        path = self.path(digest)
        try:
            source = path.open("rb")
        except FileNotFoundError:
            raise missing_blob(digest, str(self.root)) from None
        with source, _beside(destination.parent, destination.name) as (stream, part):
            if _copy(source, stream.write) != digest:
                raise self._damaged(path)
            _finish(stream, part, destination, mode=0o644)
        return destination

    def contains(self, digest: str) -> bool:
        """Whether the blob is there; its content is not looked at."""
        return self.path(digest).is_file()

    def digests(self) -> list[str]:
        """Digests of all blobs, sorted."""
        return sorted(f"sha256:{path.name}" for path in (self.root / "sha256").glob("??/*"))

    def _intact(self, digest: str) -> bool:
        try:
            with self.path(digest).open("rb") as stream:
                return _copy(stream, lambda chunk: None) == digest
        except (FileNotFoundError, NotADirectoryError):
            return False

    @contextmanager
    def _part(self) -> Iterator[tuple[BinaryIO, Path]]:
        with _beside(self.root / "incoming", "blob") as made:
            yield made

    def _place(self, stream: BinaryIO, part: Path, digest: str) -> None:
        _finish(stream, part, self.path(digest), mode=0o444)

    def _damaged(self, path: Path) -> IntegrityError:
        return IntegrityError(
            what="the bytes do not have the digest they are named by",
            where=str(path),
            remedy="restore the blob from a copy, or put the right bytes again",
        )


@contextmanager
def _beside(folder: Path, name: str) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file in ``folder``, removed at the end unless it was put in its place."""
    part: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, text = tempfile.mkstemp(prefix=f"{name}.", suffix=".part", dir=folder)
        part = Path(text)
        with os.fdopen(handle, "wb") as stream:
            yield stream, part
    except OSError as error:
        raise StorageError(
            what=f"cannot be written: {error.strerror or error}",
            where=str(folder),
            remedy="free space or make the folder writable; what was kept before is intact",
        ) from error
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _finish(stream: BinaryIO, part: Path, place: Path, *, mode: int) -> None:
    stream.flush()
    os.fchmod(stream.fileno(), mode)
    os.fsync(stream.fileno())
    place.parent.mkdir(parents=True, exist_ok=True)
    part.replace(place)


def _copy(source: BinaryIO, write: Callable[[bytes], object]) -> str:
    """Hand all bytes on in pieces; returns their digest."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        write(chunk)
    return "sha256:" + digest.hexdigest()
