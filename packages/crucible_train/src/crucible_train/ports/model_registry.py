"""The port of a registry of models, their versions, and what everything was made from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from crucible_ir.refs import ModelRef, Ref

__all__ = ["ModelRegistry"]


@runtime_checkable
class ModelRegistry(Protocol):
    """Models by name and version, and a graph of typed refs.

    A *name* of a ref is its ``kind:id``, or ``kind:id@qualifier`` where the qualifier is a version or an alias
    (models) or a digest. Without a qualifier it means the newest.
    """

    def register(self, model: ModelRef, *, identity: str | None = None) -> tuple[ModelRef, bool]:
        """Add a version of the model ``model.id``; returns the version as kept and whether it is new.

        ``identity`` is the digest of all that decides the model; without one it follows from id, digest,
        base model, producer and parents. The same id with the same identity is one version, whoever registers
        it and however often: the existing one comes back with False. A model without ``version`` gets
        the next whole number.

        Raises:
            ConflictError: the version exists with another identity.
            DataError: the model would be its own ancestor.
        """
        ...

    def get(self, id: str, version: str | None = None) -> ModelRef:
        """The version (or alias, or None for the newest) of the model ``id``.

        Raises:
            NotFoundError: with the nearest known name.
        """
        ...

    def models(self, id: str | None = None, *, stage: str | None = None) -> list[ModelRef]:
        """Registered versions, oldest first, of one id or one stage if given."""
        ...

    def set_alias(self, id: str, alias: str, version: str) -> None:
        """Let ``alias`` mean ``version`` from now on.

        Raises:
            NotFoundError: there is no such version.
            ConflictError: ``alias`` is the name of a version.
        """
        ...

    def aliases(self, id: str) -> dict[str, str]:
        """Alias → version of the model ``id``."""
        ...

    def record(self, ref: Ref) -> tuple[Ref, bool]:
        """Keep any other ref (dataset, run, checkpoint, artifact …); returns it as kept and whether it is new.

        Refs that are equal in every field are one. Others of the same ``kind:id`` are kept beside each other, and
        the name means the newest; nothing is overwritten.

        Raises:
            DataError: it is a model, or would be its own ancestor.
        """
        ...

    def resolve(self, name: str) -> Ref:
        """The ref of that name.

        Raises:
            NotFoundError: with the nearest known name.
        """
        ...

    def refs(self, kind: str | None = None, *, produced_by: str | None = None) -> list[Ref]:
        """Kept refs, oldest first, of one kind or one producing run if given."""
        ...

    def lineage(self, name: str) -> list[Ref]:
        """All that the ref was made from, each once, parents before what was made from them.

        A parent that was never kept appears as a plain ``Ref`` of its kind and id.

        Raises:
            NotFoundError: there is no such ref.
            IntegrityError: the graph holds a cycle.
        """
        ...

    def descendants(self, name: str) -> list[Ref]:
        """All that was made from any ref of that name, each once, parents before what was made from them."""
        ...

    def close(self) -> None:
        """Free what the registry holds; closing twice is harmless."""
        ...
