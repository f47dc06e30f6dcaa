"""Batches drawn from several sources in fixed shares, each with a teacher of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from crucible_ir.errors import ConfigError, DataError

__all__ = ["mixed_batch", "source_counts"]

T = TypeVar("T")


def source_counts(weights: Sequence[float], batch_size: int) -> list[int]:
    """How many rows of a batch each source gives: its rounded share, 1 at least; the last gives what is left.

    Raises:
        ConfigError: no source, a weight that is not positive, or a batch too small for one row each.
    """
    if not weights or min(weights) <= 0:
        raise ConfigError(
            what=f"weights {list(weights)}", where="weights", remedy="give a positive number per source"
        )
    total = sum(weights)
    counts = [max(1, round(weight / total * batch_size)) for weight in weights[:-1]]
    rest = batch_size - sum(counts)
    if rest < 1:
        raise ConfigError(
            what=f"a batch of {batch_size} leaves {rest} rows for the last of {len(weights)} sources",
            where="batch_size",
            remedy="give a larger batch, or fewer sources",
        )
    return [*counts, rest]


def mixed_batch(batches: Sequence[Sequence[T]], counts: Sequence[int]) -> tuple[list[T], list[int]]:
    """The first ``counts[i]`` rows of each source's batch, in order of the sources, and each row's source.

    Raises:
        DataError: a source's batch holds fewer rows than it is to give.
    """
    if len(batches) != len(counts):
        raise DataError(
            what=f"{len(batches)} batches for {len(counts)} sources",
            where="mixed_batch",
            remedy="give one batch per source",
        )
    rows: list[T] = []
    sources: list[int] = []
    for source, (batch, count) in enumerate(zip(batches, counts, strict=True)):
        if len(batch) < count:
            raise DataError(
                what=f"source {source} gives {len(batch)} rows where {count} are needed",
                where=f"mixed_batch.batches[{source}]",
                remedy=f"read the source in batches of {count} rows or more",
            )
        rows += batch[:count]
        sources += [source] * count
    return rows, sources
