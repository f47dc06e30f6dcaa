"""Ratios of medians, with the spread of the ratios of single rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Ratio", "ratio_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times better ours is: the ratio of medians, and the lowest and highest ratio of one round."""

    of_medians: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.of_medians:.2f} ({self.lowest:.2f}–{self.highest:.2f})"


def ratio_of(ours: Sequence[float], others: Sequence[float], *, more_is_better: bool) -> Ratio:
    """Ours over the other's, or the other's over ours where less is better; rounds stand at equal places."""
    above, below = (ours, others) if more_is_better else (others, ours)
    single = [a / b for a, b in zip(above, below, strict=True)]
    return Ratio(
        of_medians=statistics.median(above) / statistics.median(below),
        lowest=min(single),
        highest=max(single),
    )
