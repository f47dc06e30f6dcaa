"""Whether a backend can do what is asked of it, found out before anything is spent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from crucible_ir import DataError, Problem
from crucible_kitchen.engine.context import StageContext
from crucible_train.ports import TrainingBackend

__all__ = ["Bounded", "lacking", "require_readable"]


@runtime_checkable
class Bounded(Protocol):
    """A training backend that knows how much each of its models reads."""

    def longest(self, base_model: str) -> int | None:
        """Positions that the model reads at most; None where that is not known."""
        ...


def lacking(backend: TrainingBackend, needed: Mapping[str, bool], *, asked_of: str) -> list[Problem]:
    """A problem for each capability (a flag of ``BackendCapabilities``) that is needed and not there."""
    has = backend.capabilities()
    return [
        Problem(
            path="backend",
            message=f"backend {has.name!r} lacks {name}, which is asked of {asked_of}",
            remedy="choose another training_backend in the manifest",
        )
        for name, wanted in needed.items()
        if wanted and not getattr(has, name)
    ]


def require_readable(ctx: StageContext, lengths: Iterable[int], *, role: str) -> None:
    """Look whether the model under training reads the longest of some examples, if its backend knows.

    Raises:
        DataError: it does not; a step in the middle of the run would find out.
    """
    model, longest = ctx.experiment.model, max(lengths, default=0)
    backend = ctx.port("training_backend") if ctx.has_port("training_backend") else None
    if model is None or not isinstance(backend, Bounded):
        return
    bound = backend.longest(model.uri or model.id)
    if bound is not None and longest > bound:
        raise DataError(
            what=f"the longest of the {role} examples has {longest} positions, and {model.id} reads {bound}",
            where="training.max_length",
            remedy=f"set max_length={bound}, which cuts longer ones",
        )
