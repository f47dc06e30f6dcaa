"""Confidence intervals of a mean: Student's t, and the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crucible_ir.errors import DataError
from crucible_stats.samples import Sample, Values, as_values, check_level, rounding_error, spread_is_rounding

__all__ = ["BootstrapSettings", "Interval", "Statistic", "bootstrap_interval", "mean_interval"]

Statistic: TypeAlias = Callable[[Values], NDArray[np.float64]]
"""Takes numbers (..., n), gives the statistic of the last axis (...)."""

_CELLS = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A confidence interval of ``estimate``, and how it was made."""

    estimate: float
    low: float
    high: float
    confidence: float
    method: str

    def __contains__(self, value: float) -> bool:
        """Whether ``low ≤ value ≤ high``."""
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapSettings:
    """How to bootstrap: number of resamples, and percentile or bias-corrected and accelerated ends."""

    resamples: int = 9_999
    method: Literal["bca", "percentile"] = "bca"


def t_quantile(df: float, confidence: float) -> float:
    """The half-width of a two-sided t interval in standard errors."""
    return float(special.stdtrit(df, 0.5 + confidence / 2))


def mean_interval(sample: Sample, *, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean: mean ± t(n - 1) · sd / √n, with sd of divisor n - 1.

    Equal numbers give an interval of no width.

    Raises:
        DataError: fewer than two numbers, or one that is not finite.
    """
    check_level(confidence, name="confidence")
    values = as_values(sample, name="sample")
    mean = float(np.mean(values))
    if spread_is_rounding(values, rounding_error(values)):
        return Interval(estimate=mean, low=mean, high=mean, confidence=confidence, method="t")
    half = t_quantile(len(values) - 1, confidence) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(estimate=mean, low=mean - half, high=mean + half, confidence=confidence, method="t")


def _mean(values: Values) -> NDArray[np.float64]:
    return np.asarray(np.mean(values, axis=-1))


def bootstrap_interval(
    sample: Sample,
    generator: np.random.Generator,
    *,
    statistic: Statistic = _mean,
    confidence: float = 0.95,
    settings: BootstrapSettings | None = None,
) -> Interval:
    """The bootstrap interval of a statistic (the mean unless given).

    BCa after Efron (1987) with the jackknife's acceleration; percentiles interpolate linearly. Where every
    resample lies on one side of the estimate the correction does not exist: then, and only then, a BCa interval falls
    back to percentiles and ``method`` says so. The same generator state gives the same interval.

    Raises:
        DataError: fewer than two numbers, one that is not finite, or fewer than 100 resamples.
    """
    settings = settings or BootstrapSettings()
    check_level(confidence, name="confidence")
    if settings.resamples < 100:
        raise DataError(
            what=f"{settings.resamples} resamples are too few", where="resamples", remedy="give 1000 or more"
        )
    values = as_values(sample, name="sample")
    estimate = float(statistic(values))
    if spread_is_rounding(values, rounding_error(values)):
        return Interval(
            estimate=estimate, low=estimate, high=estimate, confidence=confidence, method=settings.method
        )
    replicates = _replicates(values, generator, statistic, settings.resamples)
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    method = settings.method
    if method == "bca":
        corrected = _bca_tails(values, replicates, estimate, statistic, tails)
        method, tails = ("percentile", tails) if corrected is None else ("bca", corrected)
    low, high = np.quantile(replicates, tails)
    return Interval(estimate=estimate, low=float(low), high=float(high), confidence=confidence, method=method)


def _replicates(
    values: Values, generator: np.random.Generator, statistic: Statistic, resamples: int
) -> NDArray[np.float64]:
    """The statistic of each resample, drawn in blocks that do not change what is drawn."""
    n = len(values)
    block = max(1, _CELLS // n)
    parts = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        parts.append(statistic(values[generator.integers(0, n, size=(rows, n))]))
    return np.concatenate(parts)


def _bca_tails(
    values: Values,
    replicates: NDArray[np.float64],
    estimate: float,
    statistic: Statistic,
    tails: NDArray[np.float64],
) -> NDArray[np.float64] | None:
    """The percentiles to read off in place of ``tails``; None if the bias correction is infinite."""
    below = (np.mean(replicates < estimate) + np.mean(replicates <= estimate)) / 2
    if not 0 < below < 1:
        return None
    n = len(values)
    left_out = np.array([float(statistic(np.delete(values, i))) for i in range(n)])
    pull = (n - 1) * (np.mean(left_out) - left_out)
    spread = float(np.sum(pull**2)) / n**2
    acceleration = float(np.sum(pull**3)) / n**3 / spread**1.5 / 6 if spread > 0 else 0.0
    shift = special.ndtri(below)
    moved = shift + special.ndtri(tails)
    return np.asarray(special.ndtr(shift + moved / (1 - acceleration * moved)), dtype=np.float64)
