"""Off-policy distillation: the teacher's likeliest tokens as soft targets of cross-entropy, (N, K)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import ConfigError, DataError
from crucible_train.types import Datum, TensorData

__all__ = ["TopK", "soft_target_datum", "soft_target_kl"]

TopK = Sequence[tuple[int, float]]
"""Tokens and their log-probabilities at one position, the likeliest first."""


def soft_target_datum(datum: Datum, teacher: Sequence[TopK | None], n_targets: int = 20) -> Datum:
    """The datum with up to ``n_targets`` targets per position in place of one.

    ``teacher[t]`` belongs to token t of the whole sequence (the input and the last target), so it has N + 1
    entries, the first of which is not read. The probabilities of the targets taken are scaled to sum to 1
    and multiplied by the weight that the position has in ``datum``: a mean stays a mean. Where the teacher
    gives fewer tokens, the first is repeated with weight 0.

    Raises:
        ConfigError: fewer than 1 target.
        DataError: not N + 1 entries, or a position with weight for which there is none.
    """
    if n_targets < 1:
        raise ConfigError(what=f"n_targets = {n_targets}", where="n_targets", remedy="give 1 or more")
    weights = datum.weights
    if weights.ndim != 1 or len(teacher) != len(weights) + 1:
        raise DataError(
            what=f"{len(teacher)} positions of the teacher for weights of shape {weights.shape}",
            where="soft_target_datum.teacher",
            remedy="score the input and its last target: N + 1 positions, the first without entries",
        )
    tokens = np.repeat(datum.target_tokens[:, None], n_targets, axis=1)
    shares = np.zeros((len(weights), n_targets), dtype=np.float32)
    for place, likeliest in enumerate(teacher[1:]):
        if not likeliest:
            if weights[place]:
                raise DataError(
                    what=f"the teacher says nothing about token {place + 1}, which has weight {weights[place]}",
                    where=f"soft_target_datum.teacher[{place + 1}]",
                    remedy="ask the teacher for its likeliest tokens at every trained position",
                )
            continue
        taken = likeliest[:n_targets]
        logprobs = np.array([logprob for _, logprob in taken], dtype=np.float64)
        scaled = np.exp(logprobs - logprobs.max())
        tokens[place] = taken[0][0]
        tokens[place, : len(taken)] = [token for token, _ in taken]
        shares[place, : len(taken)] = weights[place] * scaled / scaled.sum()
    inputs = {"target_tokens": TensorData(tokens), "weights": TensorData(shares)}
    return Datum(datum.model_input, {**datum.loss_fn_inputs, **inputs})


def soft_target_kl(
    logprobs_D: Sequence[NDArray[np.floating]], weights_D: Sequence[NDArray[np.floating]]
) -> float:
    """Σ w·Σ p·(log p − logprob) / Σ w over positions of weight w: KL(teacher‖student) in nats per token.

    Both are (N, K) per datum, and ``weights`` are w·p as ``soft_target_datum`` makes them, p the teacher's shares of
    its K likeliest tokens. Never negative, since what the student gives to other tokens counts against it. NaN where
    the weights sum to 0.

    Raises:
        DataError: the shapes differ.
    """
    total, weight = 0.0, 0.0
    for logprobs, given in zip(logprobs_D, weights_D, strict=True):
        if logprobs.shape != given.shape:
            raise DataError(
                what=f"weights of shape {given.shape} for logprobs of shape {logprobs.shape}",
                where="soft_target_kl",
                remedy="give one per target, (N, K)",
            )
        here = given.sum(axis=1, dtype=np.float64) > 0
        shares, theirs = given[here].astype(np.float64), logprobs[here].astype(np.float64)
        taken, places = shares > 0, shares.sum(axis=1, keepdims=True)
        own = np.log(shares / places, where=taken, out=np.zeros_like(shares))
        total += float(np.sum(shares * (own - theirs), where=taken))
        weight += float(places.sum())
    return total / weight if weight else math.nan
