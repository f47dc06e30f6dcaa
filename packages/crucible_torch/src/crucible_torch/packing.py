"""Datums into packed micro-batches: no padding, and each example whole in one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import ConfigError, DataError
from crucible_train.types import Datum, ImageChunk

__all__ = [
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
    """Examples side by side: tokens and positions (T,), and the runs of equal length.

    ``graded`` is False if no example has a gradient.
    """

    examples: tuple[Example, ...]
    tokens: IntArray
    positions: IntArray
    runs: tuple[Run, ...]
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
    examples: Sequence[Example], budget: int, graded: Callable[[Example], bool] | None = None
) -> list[MicroBatch]:
    """Longest first, filled up to ``budget`` tokens; equal lengths lie together. Same input, same batches.

    Examples that are not ``graded`` have batches of their own.
    """
    order = sorted(examples, key=lambda example: -example.length)
    with_gradient = [example for example in order if graded is None or graded(example)]
    without = [example for example in order if graded is not None and not graded(example)]
    return [
        *(_pack(group, graded=True) for group in _filled(with_gradient, budget)),
        *(_pack(group, graded=False) for group in _filled(without, budget)),
    ]


def _filled(order: Sequence[Example], budget: int) -> list[list[Example]]:
    groups: list[list[Example]] = []
    room = -1
    for example in order:
        if example.length > room:
            groups.append([])
            room = budget
        groups[-1].append(example)
        room -= example.length
    return groups


def _pack(examples: Sequence[Example], *, graded: bool) -> MicroBatch:
    runs: list[Run] = []
    start = 0
    for example in examples:
        if runs and runs[-1].length == example.length:
            last = runs[-1]
            runs[-1] = Run(last.start, last.count + 1, last.length)
        else:
            runs.append(Run(start, 1, example.length))
        start += example.length
    return MicroBatch(
        examples=tuple(examples),
        tokens=np.concatenate([example.tokens for example in examples]),
        positions=np.concatenate([np.arange(example.length) for example in examples]),
        runs=tuple(runs),
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
    width = max(example.targets.shape[1] for example in batch.examples)
    index, targets, spans, places = [], [], [], []
    start = count = 0
    for example in batch.examples:
        place = np.arange(example.length) if counted is None else np.flatnonzero(counted(example))
        wide = np.zeros((len(place), width), dtype=np.int64)
        wide[:, : example.targets.shape[1]] = example.targets[place]
        index.append(start + place)
        targets.append(wide)
        places.append(place)
        spans.append(slice(count, count + len(place)))
        start += example.length
        count += len(place)
    return Rows(
        index=np.concatenate(index), targets=np.concatenate(targets), spans=tuple(spans), places=tuple(places)
    )
