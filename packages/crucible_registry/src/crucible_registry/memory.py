"""Blobs in the memory of one process."""

from __future__ import annotations

from pathlib import Path

from crucible_ir.canonical import digest_bytes
from crucible_ir.errors import IntegrityError, NotFoundError
from crucible_registry.blobs import check_digest, missing_blob

__all__ = ["MemoryBlobStore"]


class MemoryBlobStore:
    """Keeps blobs in a dictionary; fits ``BlobStore``. ``root`` is taken for the sake of manifests and not used."""

    def __init__(self, *, root: Path | None = None) -> None:
        self.root = root
        self.blobs: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        """Keep ``data`` and return its digest."""
        digest = digest_bytes(data)
        self.blobs[digest] = bytes(data)
        return digest

    def put_file(self, path: Path) -> str:
        """Keep the content of a file and return its digest.

        Raises:
            NotFoundError: there is no such file.
        """
        try:
            return self.put(path.read_bytes())
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFoundError(
                what="there is no such file", where=str(path), remedy="give a file"
            ) from error

    def get(self, digest: str) -> bytes:
        """The bytes, checked.

        Raises:
            NotFoundError: no such blob.
            IntegrityError: they were changed.
        """
        check_digest(digest)
        if digest not in self.blobs:
            raise missing_blob(digest, "memory")
        data = self.blobs[digest]
        if digest_bytes(data) != digest:
            raise IntegrityError(
                what=f"the bytes do not have the digest {digest}", where="memory", remedy="put them again"
            )
        return data

    def fetch(self, digest: str, destination: Path) -> Path:
        """Write the bytes to ``destination``."""
        data = self.get(digest)
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_bytes(data)
        return destination

    def contains(self, digest: str) -> bool:
        """Whether the blob is there."""
        check_digest(digest)
        return digest in self.blobs

    def digests(self) -> list[str]:
        """Digests of all blobs, sorted."""
        return sorted(self.blobs)
