"""Count, mean, spread and percentiles of a stream or a list of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crucible_ir.errors import DataError

__all__ = ["RunningSummary", "Summary", "percentile", "summarize"]


class RunningSummary:
    """Mean and variance of numbers that come one by one, in constant memory (Welford 1962).

    Numbers that are not finite are counted in ``not_finite`` and left out of everything else.
    """

    __slots__ = ("_m2", "count", "max", "mean", "min", "not_finite")

    def __init__(self) -> None:
        self.count = 0
        self.not_finite = 0
        self.mean = 0.0
        self.min = math.inf
        self.max = -math.inf
        self._m2 = 0.0

    def add(self, value: float) -> None:
        """Take one number."""
        if not math.isfinite(value):
            self.not_finite += 1
            return
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        self._m2 += delta * (value - self.mean)
        self.min = min(self.min, value)
        self.max = max(self.max, value)

    def merge(self, other: RunningSummary) -> None:
        """Take all that ``other`` took (Chan, Golub, LeVeque 1979)."""
        self.not_finite += other.not_finite
        if other.count == 0:
            return
        total = self.count + other.count
        delta = other.mean - self.mean
        self._m2 += other._m2 + delta * delta * self.count * other.count / total
        self.mean += delta * other.count / total
        self.count = total
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)

    @property
    def variance(self) -> float:
        """Sample variance, divisor n - 1; NaN below two numbers."""
        return self._m2 / (self.count - 1) if self.count > 1 else math.nan

    @property
    def sd(self) -> float:
        """Square root of ``variance``."""
        return math.sqrt(self.variance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """``sd`` has divisor n - 1 (NaN for one number); percentiles interpolate linearly."""

    count: int
    mean: float
    sd: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


def percentile(ordered: Sequence[float], q: float) -> float:
    """The ``q``-th percentile (0-100) of sorted numbers, linear between ranks: position q/100 · (n - 1).

    Raises:
        DataError: no numbers, or ``q`` outside 0-100.
    """
    if not ordered:
        raise DataError(what="no numbers", where="percentile", remedy="give at least one")
    if not 0 <= q <= 100:
        raise DataError(what=f"{q!r} is not a percentage", where="percentile", remedy="give 0 to 100")
    place = q / 100 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    low, high, share = ordered[below], ordered[above], place - below
    if share >= 0.5:
        return high - (high - low) * (1 - share)
    return low + (high - low) * share


def summarize(values: Iterable[float]) -> Summary:
    """The summary of finite numbers.

    Raises:
        DataError: no numbers, or one that is not finite.
    """
    ordered = sorted(values)
    running = RunningSummary()
    for value in ordered:
        running.add(value)
    if running.not_finite:
        raise DataError(
            what=f"{running.not_finite} of {len(ordered)} numbers are not finite",
            where="summarize",
            remedy="leave them out, and say how many there were",
        )
    p50, p90, p95, p99 = (percentile(ordered, q) for q in (50, 90, 95, 99))
    return Summary(
        count=running.count,
        mean=running.mean,
        sd=running.sd,
        min=ordered[0],
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=ordered[-1],
    )
