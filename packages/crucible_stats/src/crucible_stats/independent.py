"""The difference of the means of two samples of different examples or runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from crucible_stats.intervals import Interval, t_quantile
from crucible_stats.paired import small_sample_factor, two_sided_t
from crucible_stats.samples import Sample, as_values, check_level, rounding_error, spread_is_rounding

__all__ = ["IndependentDifference", "welch_difference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndependentDifference:
    """What ``treatment - control`` is, in the unit of the measurements.

    ``cohens_d`` divides by √((var₁ + var₂) / 2), ``hedges_g`` is that times 1 - 3 / (4N - 9) with N numbers in all,
    ``glass_delta`` divides by the control's sd. All are infinite for a difference without any spread.
    """

    n_control: int
    n_treatment: int
    interval: Interval
    t: float
    df: float
    p_value: float
    cohens_d: float
    hedges_g: float
    glass_delta: float

    @property
    def mean(self) -> float:
        """The difference of the means."""
        return self.interval.estimate


def welch_difference(
    control: Sample, treatment: Sample, *, confidence: float = 0.95
) -> IndependentDifference:
    """Welch's t test (1947) and interval, for variances that need not be equal.

    For seeds as replicates give one number per run. For the same examples under two models use
    ``paired_difference``: it needs far fewer.

    Raises:
        DataError: fewer than two numbers on a side, or one that is not finite.
    """
    check_level(confidence, name="confidence")
    first, second = as_values(control, name="control"), as_values(treatment, name="treatment")
    error = rounding_error(first, second)
    variances = [
        0.0 if spread_is_rounding(values, error) else float(np.var(values, ddof=1))
        for values in (first, second)
    ]
    sizes = [len(first), len(second)]
    mean = float(np.mean(second) - np.mean(first))
    if variances == [0.0, 0.0] and abs(mean) <= error:
        mean = 0.0
    shares = [variance / n for variance, n in zip(variances, sizes, strict=True)]
    se = math.sqrt(sum(shares))
    df = (
        sum(shares) ** 2 / sum(share**2 / (n - 1) for share, n in zip(shares, sizes, strict=True))
        if se > 0
        else float(sum(sizes) - 2)
    )
    half = t_quantile(df, confidence) * se
    t = _ratio(mean, se)
    d = _ratio(mean, math.sqrt(sum(variances) / 2))
    return IndependentDifference(
        n_control=sizes[0],
        n_treatment=sizes[1],
        interval=Interval(
            estimate=mean, low=mean - half, high=mean + half, confidence=confidence, method="welch"
        ),
        t=t,
        df=df,
        p_value=two_sided_t(t, df),
        cohens_d=d,
        hedges_g=d if math.isinf(d) else d * small_sample_factor(sum(sizes) - 2),
        glass_delta=_ratio(mean, math.sqrt(variances[0])),
    )


def _ratio(mean: float, spread: float) -> float:
    if mean == 0:
        return 0.0
    return mean / spread if spread > 0 else math.copysign(math.inf, mean)
