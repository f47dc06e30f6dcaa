"""Intervals of a proportion and of the difference of two."""

from __future__ import annotations

import math

from scipy import special

from crucible_ir.errors import DataError
from crucible_stats.intervals import Interval
from crucible_stats.samples import check_level

__all__ = ["newcombe_difference", "proportion_interval"]


def proportion_interval(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval (1927); sensible also at 0 and at n of n, where it touches 0 or 1 exactly.

    Raises:
        DataError: not 0 ≤ successes ≤ n with n ≥ 1.
    """
    check_level(confidence, name="confidence")
    if n < 1 or not 0 <= successes <= n:
        raise DataError(
            what=f"{successes} of {n} is not a proportion",
            where="proportion_interval",
            remedy="give 0 ≤ successes ≤ n and n ≥ 1",
        )
    z = float(special.ndtri(0.5 + confidence / 2))
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(
        estimate=share,
        low=0.0 if successes == 0 else middle - half,
        high=1.0 if successes == n else middle + half,
        confidence=confidence,
        method="wilson",
    )


def newcombe_difference(
    control_successes: int,
    control_n: int,
    treatment_successes: int,
    treatment_n: int,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Interval of treatment's share minus control's, of different examples: Newcombe (1998), method 10.

    Raises:
        DataError: one of the two is not a proportion.
    """
    control = proportion_interval(control_successes, control_n, confidence=confidence)
    treatment = proportion_interval(treatment_successes, treatment_n, confidence=confidence)
    difference = treatment.estimate - control.estimate
    below = math.hypot(treatment.estimate - treatment.low, control.high - control.estimate)
    above = math.hypot(treatment.high - treatment.estimate, control.estimate - control.low)
    return Interval(
        estimate=difference,
        low=difference - below,
        high=difference + above,
        confidence=confidence,
        method="newcombe",
    )
