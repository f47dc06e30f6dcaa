"""What a run will cost, said in its log before anything is spent; of backends that are paid for alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from crucible_kitchen.engine.context import StageContext

__all__ = ["COST_ESTIMATED", "Priced", "announce_cost", "trained_tokens"]

COST_ESTIMATED = "cost.estimated"
"""Event: ``tokens`` by kind, ``usd`` (null where it is unknown), and what the figures leave out."""


@runtime_checkable
class Priced(Protocol):
    """A training backend whose work is paid for by the token."""

    def price_of(
        self, base_model: str, *, trained: int = 0, scored: int = 0, prefilled: int = 0, sampled: int = 0
    ) -> float | None:
        """US dollars for so many tokens; None where no price is known."""
        ...


def announce_cost(ctx: StageContext, *, trained: int | None, scored: int = 0, without: str) -> None:
    """Tell the log what is to come, if the backend is paid for and the run begins here.

    ``trained`` None: nobody can know yet. ``without`` says what the figures leave out, or why there are none.
    """
    if ctx.resume is not None or not ctx.has_port("training_backend"):
        return
    backend, model = ctx.port("training_backend"), ctx.experiment.model
    if not isinstance(backend, Priced) or model is None:
        return
    known = trained is not None
    usd = backend.price_of(model.uri or model.id, trained=trained or 0, scored=scored) if known else None
    tokens = {"trained": trained, "scored": scored} if known else {}
    ctx.emit(COST_ESTIMATED, {"tokens": tokens, "usd": usd, "without": without})


def trained_tokens(lengths: Sequence[int], steps: int, batch_size: int) -> int:
    """Tokens of so many steps over examples of these lengths, each example as often as the others."""
    return round(sum(lengths) / len(lengths) * steps * batch_size) if lengths else 0
