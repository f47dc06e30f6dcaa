"""Prepared examples: the datums, and the identity of the row they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from crucible_ir import TrainingConfig
from crucible_train.supervised import number_of_batches
from crucible_train.types import Datum

__all__ = ["Example", "PairExample", "TrainingExample", "total_steps"]


class TrainingExample(Protocol):
    """What a batch is made of."""

    @property
    def datums(self) -> tuple[Datum, ...]:
        """The datums that this example puts into a batch, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A datum with its row's content digest and the conversation it was built from."""

    example_id: str
    datum: Datum
    messages: tuple[dict[str, Any], ...]

    @property
    def datums(self) -> tuple[Datum, ...]:
        """The one datum."""
        return (self.datum,)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairExample:
    """The chosen and the rejected completion of one prompt, with their row's content digest."""

    example_id: str
    chosen: Datum
    rejected: Datum

    @property
    def datums(self) -> tuple[Datum, ...]:
        """Chosen, then rejected."""
        return (self.chosen, self.rejected)


def total_steps(training: TrainingConfig, examples: int) -> int:
    """Optimiser steps of the whole run.

    Raises:
        ConfigError: a batch is larger than the data.
    """
    per_epoch = number_of_batches(examples, training.batch_size, drop_last=training.drop_last)
    total = per_epoch * training.epochs
    return total if training.max_steps is None else min(total, training.max_steps)
