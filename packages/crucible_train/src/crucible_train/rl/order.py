"""Which groups each batch takes and how a batch is split: pure order, equal to upstream's.

The shuffles are those of the standard library's generator, whose sequence for a seed is fixed by its
documentation; nothing is seeded globally.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

from crucible_ir.errors import ConfigError

__all__ = ["cycle_permutation", "epoch_batch_index", "interleaved_schedule", "split_list"]

T = TypeVar("T")


def split_list(items: Sequence[T], parts: int) -> list[list[T]]:
    """``parts`` neighbouring stretches whose lengths differ by at most one: part i begins at ⌊i·(n / parts)⌋.

    The product is taken in double precision, as upstream takes it: where it is a whole number, the edge may lie one
    item before it.

    Raises:
        ConfigError: fewer than 1 part, or more parts than items.
    """
    n = len(items)
    if not 1 <= parts <= n:
        raise ConfigError(
            what=f"{n} items in {parts} parts",
            where="split_list.parts",
            remedy=f"give 1 to {max(n, 1)} parts",
        )
    edges: list[int] = np.linspace(0, n, parts + 1).astype(int).tolist()
    return [list(items[start:end]) for start, end in itertools.pairwise(edges)]


def cycle_permutation(size: int, seed: int, cycle: int) -> list[int]:
    """The order of ``size`` things in pass number ``cycle``; every pass has its own."""
    return list(_shuffled(size, f"{seed}:{cycle}"))


def epoch_batch_index(step: int, num_batches: int, shuffle_seed: int | None = None) -> int:
    """The batch that ``step`` takes: in order, over and over, or each pass in an order of its own.

    Raises:
        ConfigError: there is no batch, or the step is negative.
    """
    if num_batches < 1 or step < 0:
        raise ConfigError(
            what=f"step {step} of {num_batches} batches", where="num_batches", remedy="give 1 batch or more"
        )
    cycle, place = divmod(step, num_batches)
    return place if shuffle_seed is None else _shuffled(num_batches, f"{shuffle_seed}:{cycle}")[place]


def interleaved_schedule(
    sizes: Sequence[int],
    weights: Sequence[float],
    groups_per_batch: int,
    total_batches: int | None = None,
    seed: int = 0,
) -> list[list[tuple[int, int]]]:
    """Batches of (source, group) drawn from several sources, each slot's source by weight.

    A source's groups come in a shuffled order, each pass over them in another. Without ``total_batches`` there are
    as many batches as the source that is expected to end first allows.

    Raises:
        ConfigError: no source, an empty source, a weight that is not positive, or a size below 1.
    """
    if not sizes or len(sizes) != len(weights) or min(sizes) < 1 or min(weights) <= 0:
        raise ConfigError(
            what=f"sources of {list(sizes)} groups with weights {list(weights)}",
            where="weights",
            remedy="give one positive weight per source, and sources with a group at least",
        )
    if groups_per_batch < 1 or (total_batches is not None and total_batches < 1):
        raise ConfigError(
            what=f"{total_batches} batches of {groups_per_batch} groups",
            where="groups_per_batch",
            remedy="give 1 or more of each",
        )
    shares = [weight / sum(weights) for weight in weights]
    lasting = [int(n / (share * groups_per_batch)) for n, share in zip(sizes, shares, strict=True)]
    slots = random.Random(seed)
    taken = [0] * len(sizes)
    schedule = []
    for _ in range(max(1, min(lasting)) if total_batches is None else total_batches):
        batch = []
        for source in slots.choices(range(len(sizes)), weights=shares, k=groups_per_batch):
            cycle, place = divmod(taken[source], sizes[source])
            batch.append((source, _shuffled(sizes[source], f"{seed}:{source}:{cycle}")[place]))
            taken[source] += 1
        schedule.append(batch)
    return schedule


@lru_cache(maxsize=64)
def _shuffled(size: int, seed: str) -> tuple[int, ...]:
    order = list(range(size))
    random.Random(seed).shuffle(order)
    return tuple(order)
