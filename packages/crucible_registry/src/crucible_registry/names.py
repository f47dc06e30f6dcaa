"""Names of refs, and what decides that two models are one."""

from __future__ import annotations

from crucible_ir.canonical import digest_of
from crucible_ir.errors import DataError
from crucible_ir.refs import ArtifactRef, CheckpointRef, DatasetRef, ModelRef, Ref, RunRef

__all__ = ["TYPES", "default_identity", "names_of", "plain_ref", "refuse_model", "split_name"]

TYPES: dict[str, type[Ref]] = {
    kind.__name__: kind for kind in (Ref, DatasetRef, ModelRef, CheckpointRef, ArtifactRef, RunRef)
}
"""The types of refs that can be kept, by their class's name."""


def default_identity(model: ModelRef) -> str:
    """Digest of id, content, base model, producer and parents: what a model is when nothing else is said.

    Version, stage, place and metadata are about a model, not part of it.
    """
    return digest_of(
        {
            "id": model.id,
            "digest": model.digest,
            "base_model": model.base_model,
            "produced_by": model.produced_by,
            "parents": list(model.parents),
        }
    )


def names_of(ref: Ref) -> list[str]:
    """Every name that means ``ref``: ``kind:id``, then with its version and its digest."""
    qualifiers = [ref.version if isinstance(ref, ModelRef) else None, ref.digest]
    return [ref.key, *(f"{ref.key}@{qualifier}" for qualifier in qualifiers if qualifier)]


def split_name(name: str) -> tuple[str, str]:
    """Kind and the rest of ``kind:id`` or ``kind:id@qualifier``.

    Raises:
        DataError: there is no kind or no id.
    """
    kind, colon, rest = name.partition(":")
    if not (kind and colon and rest):
        raise DataError(
            what=f"{name!r} is not the name of a ref",
            where="name",
            remedy="give kind:id or kind:id@qualifier",
        )
    return kind, rest


def plain_ref(name: str) -> Ref:
    """A ref of which no more than its name is known."""
    kind, rest = split_name(name)
    return Ref(kind=kind, id=rest)


def refuse_model(ref: Ref) -> None:
    """Return unless ``ref`` is a model or of a type that cannot be kept.

    Raises:
        DataError: it is.
    """
    if ref.kind == "model":
        raise DataError(
            what=f"{ref.key} is a model", where="record", remedy="use register, which gives it a version"
        )
    if type(ref) not in TYPES.values():
        raise DataError(
            what=f"{type(ref).__name__} is not a type of ref that can be kept",
            where=ref.key,
            remedy=f"use one of {', '.join(TYPES)}; Ref takes any kind",
        )
