"""Which rows each batch of each epoch takes: pure order, no data.

Upstream's rule: epoch e takes the rows of the table in the order ``default_rng(e).permutation(n)``, on top
of whatever order the table was put into before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import ConfigError

__all__ = ["SupervisedBatches", "batch_indices", "number_of_batches"]


def number_of_batches(n: int, batch_size: int, *, drop_last: bool = True) -> int:
    """⌊n / batch_size⌋, or ⌈…⌉ where the last, smaller batch is kept.

    Raises:
        ConfigError: a size below 1, or no batch at all.
    """
    if batch_size < 1:
        raise ConfigError(
            what=f"batch_size = {batch_size}", where="batch_size", remedy="give a size of 1 or more"
        )
    count = n // batch_size if drop_last else -(-n // batch_size)
    if count < 1:
        raise ConfigError(
            what=f"a batch of {batch_size} examples from {n} examples",
            where="batch_size",
            remedy=f"give a batch_size of at most {n}, or drop_last=false" if n else "give some examples",
        )
    return count


def batch_indices(
    n: int, batch_size: int, epoch: int | None, *, drop_last: bool = True
) -> list[NDArray[np.int64]]:
    """Row numbers int64 (≤ batch_size,) of each batch of ``epoch``; None takes the rows as they stand.

    Raises:
        ConfigError: as ``number_of_batches``.
    """
    count = number_of_batches(n, batch_size, drop_last=drop_last)
    order = np.arange(n) if epoch is None else np.random.default_rng(epoch).permutation(n)
    order = order.astype(np.int64)
    return [order[i * batch_size : (i + 1) * batch_size] for i in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedBatches:
    """The batches of a whole run, addressed by step, so that a resumed run takes up where it stopped.

    Raises:
        ConfigError: a size below 1, or more rows in a batch than there are.
    """

    rows: int
    batch_size: int
    epochs: int = 1
    shuffle: bool = True
    drop_last: bool = True

    def __post_init__(self) -> None:
        number_of_batches(self.rows, self.batch_size, drop_last=self.drop_last)
        if self.epochs < 1:
            raise ConfigError(what=f"epochs = {self.epochs}", where="epochs", remedy="give 1 or more")

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        return number_of_batches(self.rows, self.batch_size, drop_last=self.drop_last)

    @property
    def total(self) -> int:
        """Batches in all epochs."""
        return self.per_epoch * self.epochs

    def position(self, step: int) -> tuple[int, int]:
        """Epoch and batch of ``step``, both from 0."""
        return divmod(step, self.per_epoch)

    def epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        """The batches of one epoch."""
        order = epoch if self.shuffle else None
        return batch_indices(self.rows, self.batch_size, order, drop_last=self.drop_last)
