"""The difference of two measurements of the same examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from crucible_stats.intervals import BootstrapSettings, Interval, bootstrap_interval, mean_interval
from crucible_stats.samples import (
    Sample,
    Values,
    check_level,
    paired_values,
    rounding_error,
    spread_is_rounding,
)
from crucible_stats.signed_rank import SignedRank, signed_rank

__all__ = ["PairedDifference", "paired_difference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """What ``after - before`` is, example by example.

    ``mean``, ``sd`` (divisor n - 1) and both intervals are in the unit of the measurements. ``cohens_dz`` is
    mean / sd; ``hedges_g`` is that times 1 - 3 / (4(n - 1) - 1). ``constant`` says that every example changed by
    the same amount: then intervals have no width, t and dz are 0 or infinite, and the t test's p is 1 or 0, which
    rests on no spread at all; ``wilcoxon`` still says how much so few examples can show.
    """

    n: int
    mean: float
    sd: float
    interval: Interval
    bootstrap: Interval | None
    t: float
    df: int
    p_value: float
    wilcoxon: SignedRank
    cohens_dz: float
    hedges_g: float
    constant: bool


def paired_difference(
    before: Sample,
    after: Sample,
    *,
    confidence: float = 0.95,
    generator: np.random.Generator | None = None,
    bootstrap: BootstrapSettings | None = None,
) -> PairedDifference:
    """Mean of ``after - before`` with intervals, paired t test, Wilcoxon's test and effect sizes.

    Samples given by example id are paired by id, others by place. The bootstrap interval is made when a
    ``generator`` is given. Differences that are equal up to the rounding of the numbers they come from count as equal.

    Raises:
        DataError: fewer than two pairs, ids or lengths that do not match, a number that is not finite.
    """
    check_level(confidence, name="confidence")
    first, second = paired_values(before, after)
    error = rounding_error(first, second)
    differences = _settled(second - first, error)
    n = len(differences)
    mean = float(np.mean(differences))
    constant = spread_is_rounding(differences, 0.0)
    sd = 0.0 if constant else float(np.std(differences, ddof=1))
    t = _ratio(mean, sd / math.sqrt(n))
    dz = _ratio(mean, sd)
    return PairedDifference(
        n=n,
        mean=mean,
        sd=sd,
        interval=mean_interval(differences, confidence=confidence),
        bootstrap=None
        if generator is None
        else bootstrap_interval(differences, generator, confidence=confidence, settings=bootstrap),
        t=t,
        df=n - 1,
        p_value=two_sided_t(t, n - 1),
        wilcoxon=signed_rank(_without_noise(differences, error)),
        cohens_dz=dz,
        hedges_g=dz if math.isinf(dz) else dz * small_sample_factor(n - 1),
        constant=constant,
    )


def small_sample_factor(df: float) -> float:
    """Hedges' correction 1 - 3 / (4 df - 1)."""
    return 1 - 3 / (4 * df - 1)


def two_sided_t(t: float, df: float) -> float:
    """p of a t statistic: 1 at zero, 0 at infinity."""
    return 0.0 if math.isinf(t) else min(1.0, 2 * float(special.stdtr(df, -abs(t))))


def _settled(differences: Values, error: float) -> Values:
    """The differences; one and the same number if they differ by rounding alone, and zero if that is rounding."""
    if not spread_is_rounding(differences, error):
        return differences
    middle = float(np.median(differences))
    return np.full_like(differences, 0.0 if abs(middle) <= error else middle)


def _without_noise(differences: Values, error: float) -> Values:
    """Differences on a grid of twice their rounding error, so that equal ones rank equally and zero is zero."""
    if error == 0:
        return differences
    return np.asarray(np.rint(differences / (2 * error)) * (2 * error), dtype=np.float64)


def _ratio(mean: float, spread: float) -> float:
    if mean == 0:
        return 0.0
    return mean / spread if spread > 0 else math.copysign(math.inf, mean)
