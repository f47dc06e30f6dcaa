"""Prepared examples: the datums, and the identity of the row they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from crucible_train.types import Datum

__all__ = ["Example", "PairExample", "TrainingExample"]


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
