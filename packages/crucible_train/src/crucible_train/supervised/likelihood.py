"""What a batch measured: mean negative log-likelihood and bits per byte."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import DataError
from crucible_train.ports.tokenizer import Tokenizer

__all__ = ["compute_bpb", "compute_mean_nll"]

_FEW = 8
"""Up to so many special tokens, comparing with each is faster than looking them up."""

Floats = Sequence[NDArray[np.floating]]


def _check(name: str, first: Sequence[NDArray[np.generic]], other: Sequence[NDArray[np.generic]]) -> None:
    if [a.shape for a in first] != [a.shape for a in other]:
        raise DataError(
            what=f"{name} of shapes {[a.shape for a in other]} for logprobs of {[a.shape for a in first]}",
            where=f"likelihood.{name}",
            remedy="give one array per datum, of the shape of its logprobs",
        )


def compute_mean_nll(logprobs: Floats, weights: Floats) -> float:
    """−Σ weight·logprob / Σ weight over all data, in nats; NaN where the weights sum to 0.

    ``logprobs[i]`` and ``weights[i]`` are (N_i,) or (N_i, K). Sums are taken in float64.

    Raises:
        DataError: the shapes differ.
    """
    _check("weights", logprobs, weights)
    total = sum(_sum(w) for w in weights)
    if total == 0:
        return math.nan
    products = np.multiply(_joined(logprobs), _joined(weights), dtype=np.float64)
    edges = itertools.accumulate((lp.size for lp in logprobs), initial=0)
    weighted = sum(_sum(products[start:end]) for start, end in itertools.pairwise(edges))
    return -weighted / total


def _joined(arrays: Floats) -> NDArray[np.floating]:
    """All values side by side."""
    return np.concatenate([array if array.ndim == 1 else array.ravel() for array in arrays])


def _sum(values: NDArray[np.floating]) -> float:
    """All values in float64; what ``values.sum`` gives, without what it costs for a short array."""
    return float(np.add.reduce(values, axis=None, dtype=np.float64))


def compute_bpb(
    logprobs: Floats,
    weights: Floats,
    target_tokens: Sequence[NDArray[np.integer]],
    tokenizer: Tokenizer,
) -> float:
    """−Σ logprob / (ln 2 · bytes) over tokens of positive weight that are not special; NaN without bytes.

    A measure that models with different vocabularies share: weights only choose tokens, and the bytes are
    the UTF-8 bytes of the same tokens' text. Neighbouring tokens are decoded together, since one character
    may span several.

    Raises:
        DataError: the shapes differ; each must be (N_i,).
    """
    _check("weights", logprobs, weights)
    _check("target_tokens", logprobs, target_tokens)
    if not logprobs:
        return math.nan
    targets = np.concatenate(target_tokens)
    counted = np.concatenate(weights) > 0
    special = tokenizer.all_special_ids
    if len(special) > _FEW:
        counted &= ~np.isin(targets, np.array(special, dtype=np.int64))
    else:
        for index in special:
            counted &= targets != index
    edges = list(itertools.accumulate((len(target) for target in target_tokens), initial=0))
    nats = 0.0
    for lp, (start, end) in zip(logprobs, itertools.pairwise(edges), strict=True):
        nats -= _sum(lp[counted[start:end]])
    size = sum(len(tokenizer.decode(run).encode("utf-8")) for run in _runs(targets, counted, edges))
    return nats / (math.log(2) * size) if size else math.nan


def _runs(tokens: NDArray[np.integer], counted: NDArray[np.bool_], edges: Sequence[int]) -> list[list[int]]:
    """Stretches of neighbouring tokens that count; none goes over one of the ``edges`` between data."""
    count = len(tokens)
    first, last = np.ones(count + 1, dtype=np.bool_), np.ones(count + 1, dtype=np.bool_)
    np.logical_not(counted[:-1], out=first[1:count])
    np.logical_not(counted[1:], out=last[: count - 1])
    first[edges] = True
    last[[edge - 1 for edge in edges]] = True
    starts = np.flatnonzero(counted & first[:count]).tolist()
    ends = np.flatnonzero(counted & last[:count]).tolist()
    ids = tokens.tolist()
    return [ids[start : end + 1] for start, end in zip(starts, ends, strict=True)]
