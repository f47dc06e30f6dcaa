"""Datums into packed micro-batches: no padding, and each example whole in one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import ConfigError, DataError
from crucible_torch.families import Family, find_families
from crucible_train.types import Datum, ImageChunk

__all__ = [
    "Branch",
    "Example",
    "MicroBatch",
    "Rows",
    "Run",
    "check_ids",
    "micro_batches",
    "read_examples",
    "rows_of",
    "text_tokens",
    "weighted_positions",
]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Run:
    """``count`` sequences of ``length`` tokens each, one after another from ``start``."""

    start: int
    count: int
    length: int


@dataclass(frozen=True, slots=True)
class Branch:
    """``count`` continuations of ``length`` tokens each, one after another, of one sequence.

    That is sequence ``place`` of the run number ``run``; branches lie behind all runs, in their own order.
    """

    run: int
    place: int
    count: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One datum as arrays: tokens (N,), targets (N, K), weights (N, K) or None, and targets' own rank."""

    index: int
    datum: Datum
    tokens: IntArray
    targets: IntArray
    weights: FloatArray | None
    flat: bool

    @property
    def length(self) -> int:
        """Number of positions."""
        return len(self.tokens)

    def shaped(self, values: FloatArray) -> FloatArray:
        """(N, K) values in the shape of the datum's targets."""
        return values[:, 0] if self.flat else values


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Examples side by side: tokens and positions (T,).

    First come whole examples and common beginnings, in runs of equal length, then the branches: the rest of those
    that share a beginning. ``spots[i]`` (N_i,) are the places of example i's tokens among the T. ``graded`` is
    False if no example has a gradient.
    """

    examples: tuple[Example, ...]
    tokens: IntArray
    positions: IntArray
    runs: tuple[Run, ...]
    branches: tuple[Branch, ...]
    spots: tuple[IntArray, ...]
    graded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Positions of a micro-batch whose log-probabilities are computed.

    ``index`` (R,) into its tokens, ``targets`` (R, K) with K the widest of the batch, ``spans[i]`` the rows of
    example i and ``places[i]`` (R_i,) their positions within it.
    """

    index: IntArray
    targets: IntArray
    spans: tuple[slice, ...]
    places: tuple[IntArray, ...]

    def spread(self, example: int, found: FloatArray, full: FloatArray) -> None:
        """Put what was ``found`` (R, K) at these rows into an example's own positions, ``full`` (N, K)."""
        full[self.places[example]] = found[self.spans[example], : full.shape[1]]


def text_tokens(chunks: Sequence[object], where: str) -> IntArray:
    """Token ids of a text-only input.

    Raises:
        ConfigError: an image among the chunks, which this engine does not take.
    """
    if any(isinstance(chunk, ImageChunk) for chunk in chunks):
        raise ConfigError(
            what="an image chunk, but the local engine takes text only",
            where=where,
            remedy="use a backend whose capabilities name images",
        )
    return np.fromiter((t for chunk in chunks for t in chunk.tokens), dtype=np.int64)  # type: ignore[attr-defined]


def read_examples(data: Sequence[Datum], *, max_positions: int | None, vocab_size: int) -> list[Example]:
    """Check datums and turn them into arrays.

    Raises:
        ConfigError: no data, an image, or an example longer than the model has positions for.
        DataError: an empty example, targets of a wrong shape, or ids outside the vocabulary.
    """
    if not data:
        raise ConfigError(what="no data", where="forward_backward: data", remedy="give at least one datum")
    return [_example(i, datum, max_positions, vocab_size) for i, datum in enumerate(data)]


def _example(index: int, datum: Datum, max_positions: int | None, vocab_size: int) -> Example:
    where = f"data[{index}]"
    tokens = text_tokens(datum.model_input.chunks, where)
    if len(tokens) == 0:
        raise DataError(what="an empty example", where=where, remedy="leave it out")
    if max_positions is not None and len(tokens) > max_positions:
        raise ConfigError(
            what=f"{len(tokens)} tokens, but the model has positions for {max_positions}",
            where=where,
            remedy=f"set max_length to {max_positions} or less",
        )
    targets = datum.target_tokens
    if targets.ndim not in (1, 2):
        raise DataError(
            what=f"target_tokens of shape {targets.shape}", where=where, remedy="give (N,) or (N, K)"
        )
    weights = datum.weights if "weights" in datum.loss_fn_inputs else None
    if weights is not None and weights.shape != targets.shape:
        raise DataError(
            what=f"weights of shape {weights.shape} for target_tokens of shape {targets.shape}",
            where=where,
            remedy="give one weight per target",
        )
    check_ids("model_input", tokens, vocab_size, where)
    check_ids("target_tokens", targets, vocab_size, where)
    flat = targets.ndim == 1
    return Example(
        index=index,
        datum=datum,
        tokens=tokens,
        targets=targets[:, None] if flat else targets,
        weights=weights[:, None] if flat and weights is not None else weights,
        flat=flat,
    )


def check_ids(name: str, ids: IntArray, vocab_size: int, where: str) -> None:
    """Refuse ids that the model has no embedding for.

    Raises:
        DataError: an id below 0 or beyond the vocabulary.
    """
    if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
        wrong = int(ids.max() if ids.max() >= vocab_size else ids.min())
        raise DataError(
            what=f"{name} has id {wrong} outside the vocabulary of {vocab_size}",
            where=where,
            remedy="use the model's own tokenizer",
        )


def micro_batches(
    examples: Sequence[Example],
    budget: int,
    graded: Callable[[Example], bool] | None = None,
    *,
    share_prefixes: bool = True,
) -> list[MicroBatch]:
    """Longest first, filled up to ``budget`` tokens; equal lengths lie together. Same input, same batches.

    Examples that begin alike share their common beginning, unless told not to. Those that are not ``graded`` have
    batches of their own.
    """
    with_gradient = [example for example in examples if graded is None or graded(example)]
    without = [example for example in examples if graded is not None and not graded(example)]
    batches = []
    for group, has_gradient in ((with_gradient, True), (without, False)):
        lengths = [example.length for example in group]
        if share_prefixes:
            families = find_families([example.tokens for example in group], budget)
        else:
            families = [Family(members=(number,)) for number in range(len(group))]
        families.sort(key=lambda family: -family.tokens(lengths))
        batches += [_pack(group, part, graded=has_gradient) for part in _filled(families, lengths, budget)]
    return batches


def _filled(families: Sequence[Family], lengths: Sequence[int], budget: int) -> list[list[Family]]:
    groups: list[list[Family]] = []
    room = -1
    for family in families:
        tokens = family.tokens(lengths)
        if tokens > room:
            groups.append([])
            room = budget
        groups[-1].append(family)
        room -= tokens
    return groups


class _Row:
    """The tokens of a micro-batch as they are laid out."""

    def __init__(self) -> None:
        self.tokens: list[IntArray] = []
        self.positions: list[IntArray] = []
        self.length = 0

    def add(self, tokens: IntArray, first: int) -> IntArray:
        """Put tokens at the end, the first at position ``first`` of its sequence; their places."""
        self.tokens.append(tokens)
        self.positions.append(np.arange(first, first + len(tokens)))
        self.length += len(tokens)
        return np.arange(self.length - len(tokens), self.length)


def _pack(examples: Sequence[Example], families: Sequence[Family], *, graded: bool) -> MicroBatch:
    row = _Row()
    runs: list[Run] = []
    branches: list[Branch] = []
    spots: dict[int, IntArray] = {}

    def root_length(family: Family) -> int:
        return family.shared or examples[family.members[0]].length

    places: list[tuple[Family, int, int]] = []
    for family in sorted(families, key=lambda family: -root_length(family)):
        length, start = root_length(family), row.length
        spots[family.members[0]] = row.add(examples[family.members[0]].tokens[:length], 0)
        if runs and runs[-1].length == length:
            runs[-1] = Run(runs[-1].start, runs[-1].count + 1, length)
        else:
            runs.append(Run(start, 1, length))
        places.append((family, len(runs) - 1, runs[-1].count - 1))
    for family, run, place in places:
        if not family.shared:
            continue
        root = spots[family.members[0]]
        new = len(branches)
        for member in sorted(family.members, key=lambda member: -examples[member].length):
            rest = examples[member].tokens[family.shared :]
            spots[member] = np.concatenate([root, row.add(rest, family.shared)])
            if len(branches) > new and branches[-1].length == len(rest):
                branches[-1] = Branch(run, place, branches[-1].count + 1, len(rest))
            else:
                branches.append(Branch(run, place, 1, len(rest)))
    members = [member for family, _, _ in places for member in family.members]
    return MicroBatch(
        examples=tuple(examples[member] for member in members),
        tokens=np.concatenate(row.tokens),
        positions=np.concatenate(row.positions),
        runs=tuple(runs),
        branches=tuple(branches),
        spots=tuple(spots[member] for member in members),
        graded=graded,
    )


def weighted_positions(example: Example) -> BoolArray:
    """Where a weight is not zero (N,); everywhere in an example without weights."""
    if example.weights is None:
        return np.ones(example.length, dtype=np.bool_)
    found: BoolArray = (example.weights != 0).any(axis=1)
    return found


def rows_of(batch: MicroBatch, counted: Callable[[Example], BoolArray] | None) -> Rows:
    """Every position, or those that are ``counted`` (N,) in their example."""
    width = max((example.targets.shape[1] for example in batch.examples), default=1)
    index, targets = [np.zeros(0, dtype=np.int64)], [np.zeros((0, width), dtype=np.int64)]
    spans, places = [], []
    count = 0
    for example, spots in zip(batch.examples, batch.spots, strict=True):
        place = np.arange(example.length) if counted is None else np.flatnonzero(counted(example))
        wide = np.zeros((len(place), width), dtype=np.int64)
        wide[:, : example.targets.shape[1]] = example.targets[place]
        index.append(spots[place])
        targets.append(wide)
        places.append(place)
        spans.append(slice(count, count + len(place)))
        count += len(place)
    return Rows(
        index=np.concatenate(index), targets=np.concatenate(targets), spans=tuple(spans), places=tuple(places)
    )
