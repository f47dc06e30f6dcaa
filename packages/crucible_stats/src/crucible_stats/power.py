"""What a comparison can find: power of t tests, the n it takes, the smallest effect it sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import special

from crucible_ir.errors import DataError
from crucible_stats.samples import check_level

__all__ = ["Alternative", "Design", "minimum_detectable_effect", "required_n", "t_test_power"]

Design = Literal["paired", "independent"]
"""Pairs of measurements of n examples, or two groups of n each."""
Alternative = Literal["two_sided", "larger", "smaller"]

_LARGEST_N = 10**9
_NEGLIGIBLE = 45.0
_POINTS = 4001


def t_test_power(
    effect_size: float,
    n: float,
    *,
    design: Design = "paired",
    alpha: float = 0.05,
    alternative: Alternative = "two_sided",
) -> float:
    """Probability that a t test finds an effect of ``effect_size`` standard deviations; noncentral t, no shortcut.

    ``n`` is the number of pairs, or of examples in each group. For pairs the standard deviation is that of the
    differences.

    Raises:
        DataError: n < 2, or ``alpha`` not between 0 and 1.
    """
    check_level(alpha, name="alpha")
    if n < 2:
        raise DataError(what=f"n is {n}", where="t_test_power", remedy="give at least 2")
    df = n - 1 if design == "paired" else 2 * n - 2
    shift = effect_size * math.sqrt(n if design == "paired" else n / 2)
    if alternative == "smaller":
        shift = -shift
    if alternative == "two_sided":
        edge = -float(special.stdtrit(df, alpha / 2))
        return _above(edge, df, shift) + _above(edge, df, -shift)
    return _above(-float(special.stdtrit(df, alpha)), df, shift)


def required_n(
    effect_size: float,
    *,
    power: float = 0.8,
    design: Design = "paired",
    alpha: float = 0.05,
    alternative: Alternative = "two_sided",
) -> int:
    """The least number of pairs (or of examples in each group) with at least that power.

    Raises:
        DataError: no n reaches it (an effect of zero, or in the other direction).
    """
    check_level(power, name="power")

    def enough(n: float) -> bool:
        return t_test_power(effect_size, n, design=design, alpha=alpha, alternative=alternative) >= power

    high = 2
    while not enough(high):
        high *= 2
        if high > _LARGEST_N:
            raise DataError(
                what=f"no number of examples finds an effect of {effect_size!r} with power {power}",
                where="required_n",
                remedy="give an effect that is not zero, in the direction of the alternative",
            )
    low = max(2, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def minimum_detectable_effect(
    n: int, sd: float, power: float = 0.8, *, design: Design = "paired", alpha: float = 0.05
) -> float:
    """The smallest mean difference, in the unit of ``sd``, that a two-sided t test finds with that power.

    ``sd`` is the standard deviation of the differences (paired) or within a group (independent).

    Raises:
        DataError: n < 2, a negative ``sd``, or ``power`` not above ``alpha``.
    """
    check_level(power, name="power")
    if not (sd >= 0 and math.isfinite(sd)):
        raise DataError(what=f"sd is {sd!r}", where="minimum_detectable_effect", remedy="give 0 or more")
    if power <= alpha:
        raise DataError(
            what=f"power {power} is not above alpha {alpha}",
            where="minimum_detectable_effect",
            remedy="a test finds nothing with probability alpha already; ask for more",
        )
    return sd * _root(lambda size: t_test_power(size, n, design=design, alpha=alpha) - power)


def _root(f: Callable[[float], float]) -> float:
    """Where ``f``, rising from below zero at 0, crosses zero; halved down to the last digits."""
    low, high = 0.0, 1.0
    while f(high) < 0:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if f(middle) >= 0 else (middle, high)
    return (low + high) / 2


def _above(edge: float, df: float, shift: float) -> float:
    """P(T > edge) of the noncentral t: the mean of Φ(shift - edge · s) over the spread s, with df · s² ~ χ²(df).

    The trapezoid rule over log s, whose error falls exponentially. (scipy's own function gives NaN for 2 pairs and
    moderate shifts, among others.)
    """
    reach = math.sqrt(_NEGLIGIBLE / df)
    logs = np.linspace(-1.5 * reach - _NEGLIGIBLE / df, reach, _POINTS)
    weights = np.exp(df * (logs - np.expm1(2 * logs) / 2))
    tails = special.ndtr(shift - edge * np.exp(logs))
    return float(np.sum(weights * tails) / np.sum(weights))
