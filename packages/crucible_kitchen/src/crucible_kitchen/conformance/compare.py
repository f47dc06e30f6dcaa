"""Distances between what two ways gave, and the sentence about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crucible_kitchen.conformance.check import Mismatch

__all__ = ["Logprobs", "distance", "require_near", "require_same"]

Logprobs = Sequence[NDArray[np.floating]]
"""Log-probabilities of the target tokens, one array per datum."""


def distance(left: Logprobs, right: Logprobs) -> float:
    """Greatest difference of two log-probabilities in nats; infinite where shapes differ or one is not finite."""
    if [array.shape for array in left] != [array.shape for array in right]:
        return float("inf")
    gaps = [np.abs(one.astype(np.float64) - other) for one, other in zip(left, right, strict=True)]
    greatest = max((float(gap.max()) for gap in gaps if gap.size), default=0.0)
    return greatest if np.isfinite(greatest) else float("inf")


def require_same(
    found: Logprobs, wanted: Logprobs, *, within: float, what: str, expected: str, diagnosis: str
) -> str:
    """Log-probabilities that differ by ``within`` nats at most.

    Raises:
        Mismatch: they differ by more.
    """
    gap = distance(found, wanted)
    said = f"{what} differ by {gap:.2g} nats (allowed: {within:.2g})"
    if not gap <= within:
        raise Mismatch(expected=expected, found=said, diagnosis=diagnosis)
    return said


def require_near(
    found: float, wanted: float, *, within: float, what: str, expected: str, diagnosis: str
) -> str:
    """A number that differs from ``wanted`` by ``within`` at most.

    Raises:
        Mismatch: it differs by more.
    """
    said = f"{what} is {found:.6g}, expected {wanted:.6g} ± {within:.2g}"
    if not abs(found - wanted) <= within:
        raise Mismatch(expected=expected, found=said, diagnosis=diagnosis)
    return said
