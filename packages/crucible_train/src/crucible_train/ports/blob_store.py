"""The port of a store of bytes that are named by their digest."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

__all__ = ["BlobStore"]


@runtime_checkable
class BlobStore(Protocol):
    """Immutable bytes under their ``sha256:…`` digest; every read is checked against it."""

    def put(self, data: bytes) -> str:
        """Keep ``data`` and return its digest; putting the same bytes twice keeps them once.

        Raises:
            StorageError: nothing more can be written; no partial blob is left behind.
        """
        ...

    def put_file(self, path: Path) -> str:
        """Keep the content of a file, read once in pieces, and return its digest.

        Raises:
            NotFoundError: there is no such file.
            StorageError: as for ``put``.
        """
        ...

    def get(self, digest: str) -> bytes:
        """The bytes of ``digest``.

        Raises:
            NotFoundError: there is no such blob.
            IntegrityError: the stored bytes are not those that were put.
            DataError: ``digest`` is not ``sha256:`` and 64 hex digits.
        """
        ...

    def fetch(self, digest: str, destination: Path) -> Path:
        """Write the bytes to the file ``destination``, which appears whole and checked or not at all."""
        ...

    def contains(self, digest: str) -> bool:
        """Whether the blob is there; says nothing about its content."""
        ...

    def digests(self) -> list[str]:
        """Digests of all blobs, sorted."""
        ...
