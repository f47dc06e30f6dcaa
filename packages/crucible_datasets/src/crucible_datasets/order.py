"""Seeded orders: the whole permutation, and the buffered one for rows that stream.

Both draw from ``numpy.random.default_rng(seed)`` (PCG64) exactly as ``datasets`` does, so a recipe sees the same
rows in the same order wherever they come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from crucible_ir import ConfigError

__all__ = ["buffer_shuffle", "permutation"]

T = TypeVar("T")


def permutation(count: int, seed: int | None) -> npt.NDArray[np.int64]:
    """Positions 0 … count-1 in seeded order: ``default_rng(seed).permutation(count)``; None keeps the order.

    Returns an int64 array of shape (count,).

    Raises:
        ConfigError: a negative seed.
    """
    if seed is None:
        return np.arange(count, dtype=np.int64)
    return _generator(seed).permutation(count).astype(np.int64, copy=False)


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise ConfigError(
            what=f"{seed} is negative", where="shuffle_seed", remedy="give a seed of at least 0"
        )
    return np.random.default_rng(seed)


def _epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    generator = _generator(seed)
    if epoch == 0:
        return generator
    derived = int(generator.integers(0, 1 << 63)) - epoch
    return np.random.default_rng((1 << 63) + derived if derived < 0 else derived)


def buffer_shuffle(rows: Iterable[T], *, seed: int, buffer_size: int, epoch: int = 0) -> Iterator[T]:
    """Rows in an order that needs only ``buffer_size`` of them in memory.

    Whenever the buffer is full it is permuted, its first half (the greater one of an odd size) is delivered and
    the rest stays; what is left at the end comes permuted. No row comes more than ``buffer_size`` places before
    its place in the source, and a buffer larger than the data gives exactly ``permutation``. Equal to
    ``datasets.IterableDataset.shuffle(seed, buffer_size)`` of datasets 5.2 on one shard; ``epoch`` derives another
    order as ``set_epoch`` does there.

    Raises:
        ConfigError: a negative seed or a buffer of fewer than one row.
    """
    if buffer_size < 1:
        raise ConfigError(
            what=f"{buffer_size} rows are no buffer", where="shuffle_buffer", remedy="give at least 1"
        )
    generator = _epoch_generator(seed, epoch)
    buffer: list[T] = []
    keep = buffer_size // 2
    for row in rows:
        buffer.append(row)
        if len(buffer) >= buffer_size:
            order = generator.permutation(len(buffer)).tolist()
            leaving = len(buffer) - keep
            yield from (buffer[place] for place in order[:leaving])
            buffer = [buffer[place] for place in order[leaving:]]
    if buffer:
        yield from (buffer[place] for place in generator.permutation(len(buffer)).tolist())
