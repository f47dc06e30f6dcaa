"""Wilcoxon's signed-rank test, exact with ties."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crucible_stats.samples import Values

__all__ = ["SignedRank", "signed_rank"]

_EXACT_UP_TO = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRank:
    """``statistic`` is the smaller rank sum; ``n`` counts the differences that are not zero.

    ``rank_biserial`` is (W⁺ - W⁻) / (W⁺ + W⁻), positive when the differences are; 0 if all are zero.
    """

    n: int
    statistic: float
    rank_biserial: float
    p_value: float
    exact: bool


def average_ranks(values: Values) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], dtype=np.float64)


def signed_rank(differences: Values) -> SignedRank:
    """Two-sided test that differences are symmetric about zero. Zeros are left out (Wilcoxon's own rule).

    Up to 200 differences the null distribution of the very ranks at hand, ties included, is enumerated; above, the
    normal approximation with the tie correction is used.
    """
    values = differences[differences != 0]
    n = len(values)
    if n == 0:
        return SignedRank(n=0, statistic=0.0, rank_biserial=0.0, p_value=1.0, exact=True)
    ranks = average_ranks(np.abs(values))
    plus = float(np.sum(ranks[values > 0]))
    total = n * (n + 1) / 2
    smaller = min(plus, total - plus)
    exact = n <= _EXACT_UP_TO
    p_value = _exact_p(ranks, smaller) if exact else _normal_p(ranks, smaller)
    return SignedRank(
        n=n, statistic=smaller, rank_biserial=(2 * plus - total) / total, p_value=p_value, exact=exact
    )


def _exact_p(ranks: NDArray[np.float64], smaller: float) -> float:
    """Twice the share of sign assignments whose positive sum is at most ``smaller``; ranks count in halves."""
    doubled = np.rint(2 * ranks).astype(np.int64)
    weights = np.zeros(int(doubled.sum()) + 1)
    weights[0] = 1.0
    for rank in doubled:
        moved = np.zeros_like(weights)
        moved[rank:] = weights[: len(weights) - rank]
        weights = (weights + moved) / 2
    return min(1.0, 2 * float(np.sum(weights[: round(2 * smaller) + 1])))


def _normal_p(ranks: NDArray[np.float64], smaller: float) -> float:
    sd = math.sqrt(float(np.sum(ranks**2)) / 4)
    z = (smaller - float(np.sum(ranks)) / 2) / sd
    return min(1.0, 2 * float(special.ndtr(z)))
