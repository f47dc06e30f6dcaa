"""Named, disjoint, seeded parts of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from crucible_datasets.digests import order_digest
from crucible_datasets.order import permutation
from crucible_datasets.snapshots import MappedRows
from crucible_ir import ConfigError, DatasetSnapshot, Row

__all__ = ["split_positions", "split_rows", "split_snapshot"]


def _counts(total: int, parts: Mapping[str, int | float | None]) -> dict[str, int]:
    rest = [name for name, size in parts.items() if size is None]
    if len(rest) > 1:
        raise ConfigError(
            what=f"both {rest[0]!r} and {rest[1]!r} are to take what is left",
            where="splits",
            remedy="give one of them a size",
        )
    shares = [
        (name, Fraction(size).limit_denominator(10**9))
        for name, size in parts.items()
        if isinstance(size, float) and 0 < size <= 1
    ]
    for name, size in parts.items():
        if (
            isinstance(size, bool)
            or (size is not None and not size > 0)
            or (isinstance(size, float) and size > 1)
        ):
            raise ConfigError(
                what=f"{size!r} is neither a number of rows nor a fraction up to 1",
                where=f"splits.{name}",
                remedy="give a whole number above 0, or a fraction",
            )
    share = sum((fraction for _, fraction in shares), Fraction(0))
    if share > 1:
        raise ConfigError(
            what=f"the fractions add up to {float(share):g}",
            where="splits",
            remedy="let them add up to at most 1",
        )
    counts: dict[str, int] = {name: size for name, size in parts.items() if isinstance(size, int)}
    reached, taken = Fraction(0), 0
    for name, fraction in shares:
        reached += fraction
        counts[name] = round(reached * total) - taken
        taken += counts[name]
    if rest:
        counts[rest[0]] = total - sum(counts.values())
    for name in parts:
        if counts[name] < 1:
            raise ConfigError(
                what=f"no row is left for it out of {total}",
                where=f"splits.{name}",
                remedy="change the sizes",
            )
    if sum(counts.values()) > total:
        raise ConfigError(
            what=f"{sum(counts.values())} rows asked for, {total} there",
            where="splits",
            remedy="ask for fewer",
        )
    return {name: counts[name] for name in parts}


def split_positions(
    total: int, parts: Mapping[str, int | float | None], *, seed: int | None
) -> dict[str, npt.NDArray[np.int64]]:
    """Positions of each part: consecutive pieces of ``permutation(total, seed)``, in the order of ``parts``.

    A size is a number of rows, a fraction of all rows (fractions that add up to 1 use every row), or None for
    what is left. ``{"test": 5, "train": None}`` equals ``Dataset.train_test_split(test_size=5, seed=seed)`` of
    ``datasets``. None as the seed takes rows as they stand.

    Raises:
        ConfigError: sizes that are not positive, overlap, exceed the rows, or leave a part empty.
    """
    order = permutation(total, seed)
    found, begin = {}, 0
    for name, count in _counts(total, parts).items():
        found[name] = order[begin : begin + count]
        begin += count
    return found


def split_rows(
    rows: Sequence[Row], parts: Mapping[str, int | float | None], *, seed: int | None
) -> dict[str, list[Row]]:
    """Rows of each part; see ``split_positions``.

    Raises:
        ConfigError: sizes that do not fit the number of rows.
    """
    positions = split_positions(len(rows), parts, seed=seed)
    return {name: [rows[place] for place in where.tolist()] for name, where in positions.items()}


def split_snapshot(
    snapshot: DatasetSnapshot, parts: Mapping[str, int | float | None], *, seed: int | None
) -> dict[str, DatasetSnapshot]:
    """Parts of a loaded dataset, each with a reference of its own: same content and mapping, its own order.

    The order digest of a part is that of the source positions of its rows, so parts of one dataset differ in it.

    Raises:
        ConfigError: sizes that do not fit the number of rows.
    """
    rows = snapshot.rows
    parts_of: dict[str, DatasetSnapshot] = {}
    for name, where in split_positions(len(rows), parts, seed=seed).items():
        taken: Sequence[Row]
        if isinstance(rows, MappedRows):
            taken = rows.take(where)
            digest = order_digest(taken.positions)
        else:
            taken = [rows[place] for place in where.tolist()]
            digest = order_digest(where)
        ref = snapshot.ref.model_copy(
            update={
                "order_digest": digest,
                "rows": len(taken),
                "parents": (*snapshot.ref.parents, f"{snapshot.ref.key}#{name}"),
            }
        )
        parts_of[name] = DatasetSnapshot(ref=ref, rows=taken, drops=snapshot.drops)
    return parts_of
