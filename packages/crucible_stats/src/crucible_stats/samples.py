"""Numbers to compare: checked, and paired by example where they have names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import DataError

__all__ = [
    "Sample",
    "Values",
    "as_values",
    "check_level",
    "paired_values",
    "rounding_error",
    "spread_is_rounding",
]

Values: TypeAlias = NDArray[np.float64]
Sample: TypeAlias = "Sequence[float] | NDArray[np.floating] | Mapping[str, float]"
"""Numbers, or numbers by the id of the example they belong to."""

_EPS = float(np.finfo(np.float64).eps)


def as_values(sample: Sample, *, name: str, at_least: int = 2) -> Values:
    """The numbers of a sample as float64 (n,).

    Raises:
        DataError: not one-dimensional, fewer than ``at_least``, or one that is not finite.
    """
    numbers = list(sample.values()) if isinstance(sample, Mapping) else sample
    values = np.asarray(numbers, dtype=np.float64)
    if values.ndim != 1:
        raise DataError(
            what=f"has the shape {values.shape}",
            where=name,
            remedy="give one number per example, in one dimension",
        )
    if len(values) < at_least:
        raise DataError(
            what=f"has {len(values)} {'number' if len(values) == 1 else 'numbers'}, at least {at_least} are needed",
            where=name,
            remedy="measure more examples; below that there is no spread to judge by",
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(
            what=f"{len(bad)} of {len(values)} numbers are not finite (the first at index {bad[0]})",
            where=name,
            remedy="leave those examples out of both samples, and report how many there were",
        )
    return values


def paired_values(before: Sample, after: Sample) -> tuple[Values, Values]:
    """Both samples with equal examples at equal places.

    Samples by id are put in the order of the first; samples without ids pair by place.

    Raises:
        DataError: ids on one side only, ids that differ (named), different lengths, or what ``as_values`` refuses.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        only_before = [key for key in before if key not in after]
        only_after = [key for key in after if key not in before]
        if only_before or only_after:
            raise DataError(
                what=f"{len(only_before)} examples are only before (such as {only_before[:1]}), "
                f"{len(only_after)} only after (such as {only_after[:1]})",
                where="paired samples",
                remedy="compare the same examples; leave out the others deliberately, and report how many",
            )
        after = {key: after[key] for key in before}
    elif isinstance(before, Mapping) or isinstance(after, Mapping):
        raise DataError(
            what="one sample has example ids, the other has not",
            where="paired samples",
            remedy="give both by id, or both in the same order",
        )
    first, second = as_values(before, name="before"), as_values(after, name="after")
    if len(first) != len(second):
        raise DataError(
            what=f"{len(first)} numbers before, {len(second)} after",
            where="paired samples",
            remedy="give one pair per example",
        )
    return first, second


def check_level(value: float, *, name: str) -> float:
    """``value``, if it lies strictly between 0 and 1.

    Raises:
        DataError: it does not.
    """
    if not 0 < value < 1:
        raise DataError(what=f"{value!r} is not between 0 and 1", where=name, remedy="give 0.95, say")
    return value


def rounding_error(*samples: Values) -> float:
    """The error that a difference of these numbers may carry from their own representation."""
    return 4 * _EPS * max(float(np.max(np.abs(sample))) for sample in samples)


def spread_is_rounding(values: Values, error: float) -> bool:
    """Whether the values differ by no more than ``error``: a constant, seen through floating point."""
    return bool(np.ptp(values) <= error)
