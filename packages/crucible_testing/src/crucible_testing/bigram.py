"""A language model of one table: the logits of the next token depend on the present token alone.

It learns in the plain sense (softmax, exact gradients, AdamW) and takes microseconds, so that whole runs are
tried without torch. With W the table and p = softmax(W[x]): log p(y|x) = W[x, y] − log Σ exp W[x], and the
gradient of a loss L for W[x] is Σ_y ∂L/∂lp_y · (onehot(y) − p).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crucible_ir import TrainError
from crucible_train.types import AdamParams, SampledSequence, SamplingParams, TopLogprobs

__all__ = ["BigramTable", "log_softmax", "sample_from", "top_logprobs"]

Floats = NDArray[np.float64]


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float64)


def top_logprobs(logprobs: Floats, count: int) -> TopLogprobs:
    """The ``count`` likeliest ids of (V,) log-probabilities with theirs, equal ones by id."""
    order = np.argsort(-logprobs, kind="stable")[:count]
    return tuple((int(token), float(logprobs[token])) for token in order)


@dataclass(slots=True)
class BigramTable:
    """Weights (V, V), gradients that wait (``waiting``: whether any do), and the moments of AdamW."""

    weights: Floats
    first: Floats = field(init=False)
    second: Floats = field(init=False)
    gradient: Floats = field(init=False)
    steps: int = 0
    waiting: bool = False

    def __post_init__(self) -> None:
        self.first = np.zeros_like(self.weights)
        self.second = np.zeros_like(self.weights)
        self.gradient = np.zeros_like(self.weights)

    def logprobs(self, tokens: Sequence[int], targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """Log-probability of each target, (N,) or (N, K)."""
        table = log_softmax(self.weights[list(tokens)])
        columns = targets.reshape(len(targets), -1)
        return np.take_along_axis(table, columns, axis=1).reshape(targets.shape).astype(np.float32)

    def accumulate(
        self, tokens: Sequence[int], targets: NDArray[np.int64], gradient: NDArray[np.floating]
    ) -> None:
        """Add what ``gradient`` (∂loss/∂logprobs, of the shape of ``targets``) means for the weights."""
        rows = list(tokens)
        columns = targets.reshape(len(targets), -1)
        outer = gradient.astype(np.float64).reshape(columns.shape)
        pushed = -outer.sum(axis=1, keepdims=True) * np.exp(log_softmax(self.weights[rows]))
        np.add.at(pushed, (np.arange(len(rows))[:, None], columns), outer)
        np.add.at(self.gradient, rows, pushed)
        self.waiting = True

    def step(self, params: AdamParams) -> float:
        """One AdamW step with the gradients that wait; clears them and returns their norm before clipping.

        Raises:
            TrainError: none wait.
        """
        if not self.waiting:
            raise TrainError(
                what="there are no gradients to apply",
                where="optim_step",
                remedy="call forward_backward first",
            )
        norm = float(np.sqrt(np.sum(self.gradient**2)))
        clip = params.grad_clip_norm
        gradient = self.gradient * (clip / norm) if 0 < clip < norm else self.gradient
        self.steps += 1
        self.first = params.beta1 * self.first + (1 - params.beta1) * gradient
        self.second = params.beta2 * self.second + (1 - params.beta2) * gradient**2
        mean = self.first / (1 - params.beta1**self.steps)
        spread = np.sqrt(self.second / (1 - params.beta2**self.steps))
        self.weights = self.weights - params.learning_rate * (
            mean / (spread + params.eps) + params.weight_decay * self.weights
        )
        self.gradient, self.waiting = np.zeros_like(self.weights), False
        return norm


def sample_from(
    weights: Floats,
    last: int,
    params: SamplingParams,
    rng: np.random.Generator,
    *,
    stops: Sequence[Sequence[int]],
) -> SampledSequence:
    """Continue after the token ``last`` until one of ``stops`` (token sequences) or ``max_tokens``."""
    tokens: list[int] = []
    scores: list[float] = []
    while len(tokens) < params.max_tokens:
        table = log_softmax(weights[last])
        last = _choose(table, params, rng)
        tokens.append(last)
        scores.append(float(table[last]))
        if any(tokens[-len(stop) :] == list(stop) for stop in stops):
            return SampledSequence(tokens=tuple(tokens), logprobs=tuple(scores), stop_reason="stop")
    return SampledSequence(tokens=tuple(tokens), logprobs=tuple(scores), stop_reason="length")


def _choose(table: Floats, params: SamplingParams, rng: np.random.Generator) -> int:
    if params.temperature == 0:
        return int(table.argmax())
    chances = np.exp(log_softmax(table / params.temperature))
    order = np.argsort(-chances, kind="stable")
    kept = order[: params.top_k] if params.top_k > 0 else order
    before = np.cumsum(chances[kept]) - chances[kept]
    kept = kept[before < params.top_p]
    return int(rng.choice(kept, p=chances[kept] / chances[kept].sum()))
