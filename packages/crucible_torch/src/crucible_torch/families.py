"""Which sequences begin alike, so that their common beginning is computed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Family", "find_families"]

IntArray = NDArray[np.int64]

_SHORTEST = 16
"""Fewest tokens in common: a shorter beginning, such as the header of a chat turn, costs more than it saves."""
_LEAST_SAVED = 8
"""A family saves one in so many of its tokens at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Sequences, by number, whose first ``shared`` tokens are the same; each goes on with one token or more.

    A sequence alone shares none.
    """

    members: tuple[int, ...]
    shared: int = 0

    def tokens(self, lengths: Sequence[int]) -> int:
        """How many tokens are computed, given the length of every sequence."""
        return self.shared + sum(lengths[member] - self.shared for member in self.members)


def find_families(sequences: Sequence[IntArray], budget: int) -> list[Family]:
    """Every sequence in exactly one family; families of several have no more than ``budget`` tokens.

    Sequences that begin alike lie together once they are sorted, so one walk over them finds the families: the next
    one joins when more is saved with it than without.
    """
    starts: defaultdict[bytes, list[int]] = defaultdict(list)
    for number, tokens in enumerate(sequences):
        starts[tokens[:_SHORTEST].tobytes()].append(number)
    found: list[Family] = []
    for alike in starts.values():
        if len(alike) == 1 or len(sequences[alike[0]]) < _SHORTEST:
            found += [Family(members=(number,)) for number in alike]
        else:
            found += _walk(sequences, alike, budget)
    return sorted(found, key=lambda family: family.members[0])


def _walk(sequences: Sequence[IntArray], alike: Sequence[int], budget: int) -> Iterator[Family]:
    """Families among sequences whose first tokens are the same."""
    order = sorted(alike, key=lambda number: sequences[number].astype(">i8").tobytes())
    lengths = [len(tokens) for tokens in sequences]
    family = Family(members=(order[0],))
    for before, number in pairwise(order):
        common = _common(sequences[before], sequences[number])
        joined = Family(
            members=(*family.members, number),
            shared=common if len(family.members) == 1 else min(family.shared, common),
        )
        if _saved(joined) > _saved(family) and joined.tokens(lengths) <= budget:
            family = joined
        else:
            yield from _worthwhile(family, lengths)
            family = Family(members=(number,))
    yield from _worthwhile(family, lengths)


def _worthwhile(family: Family, lengths: Sequence[int]) -> Iterator[Family]:
    """The family, its members in ascending order; or each member alone where too little is saved."""
    total = sum(lengths[member] for member in family.members)
    if family.shared >= _SHORTEST and _saved(family) * _LEAST_SAVED >= total:
        yield Family(members=tuple(sorted(family.members)), shared=family.shared)
    else:
        yield from (Family(members=(member,)) for member in family.members)


def _saved(family: Family) -> int:
    return (len(family.members) - 1) * family.shared


def _common(one: IntArray, other: IntArray) -> int:
    """Tokens in common at the beginning, one fewer than the shorter sequence has at most."""
    most = min(len(one), len(other)) - 1
    differ = np.flatnonzero(one[:most] != other[:most])
    return int(differ[0]) if len(differ) else most
