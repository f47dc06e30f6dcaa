"""Where a distillation takes its prompts or conversations from, and how several sources share a batch."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crucible_ir import DatasetSnapshot
from crucible_train.supervised import batch_indices, number_of_batches

__all__ = ["Mixture", "Source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Rows with a name of their own; each source has a teacher of the same place."""

    name: str
    rows: DatasetSnapshot
    held_out: DatasetSnapshot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Examples of several sources, one after the other: ``sizes[i]`` of source i, ``counts[i]`` in each batch."""

    sizes: tuple[int, ...]
    counts: tuple[int, ...]

    def per_epoch(self, *, drop_last: bool) -> int:
        """Batches until the first source is used up.

        Raises:
            ConfigError: a source has fewer rows than it gives to one batch.
        """
        return min(
            number_of_batches(size, count, drop_last=drop_last)
            for size, count in zip(self.sizes, self.counts, strict=True)
        )

    def batches(self, epoch: int, *, drop_last: bool) -> list[NDArray[np.int64]]:
        """Numbers of the examples of each batch, those of the first source first; each source in an order of its own.

        One source alone is ordered as it is in supervised training.
        """
        parts = [
            [first + rows for rows in batch_indices(size, count, epoch, drop_last=drop_last)]
            for first, size, count in zip(self._firsts(), self.sizes, self.counts, strict=True)
        ]
        return [np.concatenate(rows) for rows in zip(*parts, strict=False)]

    def source_of(self, example: int) -> int:
        """The source of the example of that number."""
        return bisect_right(self._firsts(), example) - 1

    def _firsts(self) -> Sequence[int]:
        return [0, *itertools.accumulate(self.sizes[:-1])]
