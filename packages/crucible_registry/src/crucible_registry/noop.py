"""A registry and a blob store that take everything and keep nothing."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from crucible_ir.errors import NotFoundError
from crucible_ir.refs import ModelRef, Ref
from crucible_registry.blobs import missing_blob
from crucible_registry.memory import MemoryBlobStore
from crucible_registry.names import refuse_model

__all__ = ["NoopBlobStore", "NoopModelRegistry"]


def _nothing(name: str) -> NoReturn:
    raise NotFoundError(
        what=f"there is no {name}: this registry keeps nothing",
        where="model_registry",
        remedy="choose the adapter 'sqlite' in the manifest",
    )


class NoopBlobStore(MemoryBlobStore):
    """Computes digests and forgets the bytes; fits ``BlobStore``."""

    def put(self, data: bytes) -> str:
        """The digest of ``data``."""
        digest = super().put(data)
        self.blobs.clear()
        return digest

    def get(self, digest: str) -> bytes:
        """Never there.

        Raises:
            NotFoundError: always, for a well-formed digest.
        """
        self.contains(digest)
        raise missing_blob(digest, "this store keeps nothing")


class NoopModelRegistry:
    """Takes everything, keeps nothing; fits ``ModelRegistry``. ``root`` is taken and not used."""

    def __init__(self, *, root: Path | None = None) -> None:
        self.root = root

    def register(self, model: ModelRef, *, identity: str | None = None) -> tuple[ModelRef, bool]:
        """The model as version ``1`` unless it has one; always new."""
        return (model if model.version else model.model_copy(update={"version": "1"})), True

    def get(self, id: str, version: str | None = None) -> ModelRef:
        """Never there."""
        _nothing(f"model {id!r}")

    def models(self, id: str | None = None, *, stage: str | None = None) -> list[ModelRef]:
        """None."""
        return []

    def set_alias(self, id: str, alias: str, version: str) -> None:
        """Refused: there is no version to mean."""
        _nothing(f"model {id!r}")

    def aliases(self, id: str) -> dict[str, str]:
        """None."""
        return {}

    def record(self, ref: Ref) -> tuple[Ref, bool]:
        """The ref, always new."""
        refuse_model(ref)
        return ref, True

    def resolve(self, name: str) -> Ref:
        """Never there."""
        _nothing(repr(name))

    def refs(self, kind: str | None = None, *, produced_by: str | None = None) -> list[Ref]:
        """None."""
        return []

    def lineage(self, name: str) -> list[Ref]:
        """Never there."""
        _nothing(repr(name))

    def descendants(self, name: str) -> list[Ref]:
        """Never there."""
        _nothing(repr(name))

    def close(self) -> None:
        """Do nothing."""
