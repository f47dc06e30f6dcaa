"""A pair of completions as two datums that share their prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crucible_ir.errors import DataError
from crucible_train.preference.comparison import Comparison
from crucible_train.renderers import Renderer, TrainOnWhat
from crucible_train.supervised import conversation_to_datum
from crucible_train.types import Datum

__all__ = ["PairDatums", "interleaved", "pair_datums"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairDatums:
    """The chosen and the rejected completion of one prompt; weights are 1 on the completion, not reduced.

    Raises:
        DataError: one of them has no token of the completion left.
    """

    chosen: Datum
    rejected: Datum

    def __post_init__(self) -> None:
        for side in ("chosen", "rejected"):
            if not getattr(self, side).weights.any():
                raise DataError(
                    what=f"no token of the {side} completion is left",
                    where=f"PairDatums.{side}",
                    remedy="raise max_length, or leave the pair out",
                )


def pair_datums(
    comparison: Comparison,
    renderer: Renderer,
    max_length: int | None = None,
    train_on_what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_MESSAGE,
) -> PairDatums:
    """``comparison`` with A chosen and B rejected. Both are built or neither is, so pairs never come apart.

    Raises:
        RenderError: the renderer cannot express a message.
        DataError: nothing of a completion is left within ``max_length``.
    """
    chosen, rejected = (
        conversation_to_datum(
            [*comparison.prompt_conversation, *completion], renderer, max_length, train_on_what, "none"
        )
        for completion in (comparison.completion_a, comparison.completion_b)
    )
    return PairDatums(chosen=chosen, rejected=rejected)


def interleaved(pairs: Iterable[PairDatums]) -> Sequence[Datum]:
    """Chosen, rejected, chosen, rejected …: the order that ``dpo_loss`` reads."""
    return [datum for pair in pairs for datum in (pair.chosen, pair.rejected)]
