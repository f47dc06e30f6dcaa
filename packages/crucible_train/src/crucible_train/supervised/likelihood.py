"""What a batch measured: mean negative log-likelihood and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import DataError
from crucible_train.ports.tokenizer import Tokenizer

__all__ = ["compute_bpb", "compute_mean_nll"]

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
    total = sum(float(w.sum(dtype=np.float64)) for w in weights)
    if total == 0:
        return math.nan
    weighted = sum(
        float(np.sum(lp.astype(np.float64) * w.astype(np.float64)))
        for lp, w in zip(logprobs, weights, strict=True)
    )
    return -weighted / total


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
    special = np.array(sorted(tokenizer.all_special_ids), dtype=np.int64)
    nats, size = 0.0, 0
    for lp, weight, target in zip(logprobs, weights, target_tokens, strict=True):
        counted = (weight > 0) & ~np.isin(target, special)
        nats -= float(lp[counted].sum(dtype=np.float64))
        size += sum(len(tokenizer.decode(run).encode("utf-8")) for run in _runs(target, counted))
    return nats / (math.log(2) * size) if size else math.nan


def _runs(tokens: NDArray[np.integer], counted: NDArray[np.bool_]) -> list[list[int]]:
    """Stretches of neighbouring tokens that count."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], counted, [False])).astype(np.int8)))
    return [tokens[start:end].tolist() for start, end in zip(edges[::2], edges[1::2], strict=True)]
