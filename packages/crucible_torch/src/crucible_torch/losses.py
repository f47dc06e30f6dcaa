"""Losses by name: the value of an example and the gradient for its log-probabilities.

Losses are sums over tokens; what they compute is said in ``crucible_train.losses``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crucible_torch.packing import Example
from crucible_train import losses as references
from crucible_train.losses import LossSpec, cross_entropy
from crucible_train.types import LossConfig

__all__ = ["LOSSES", "Loss", "LossTerm", "find_loss"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerm:
    """Value of one example and ∂value/∂logprobs, float32 (N, K)."""

    value: float
    gradient: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A loss: its reference and how it is computed from log-probabilities (N, K).

    ``linear`` says that the gradient does not depend on the log-probabilities: ``term`` may then be asked
    for it before they are known, and one pass over the head does. ``weighted`` says that positions of
    weight 0 have no part in it.
    """

    spec: LossSpec
    linear: bool
    weighted: bool
    term: Callable[[Example, FloatArray, LossConfig], LossTerm]

    @property
    def name(self) -> str:
        """The name that ``forward_backward`` takes."""
        return self.spec.name

    def check(self, examples: list[Example], config: LossConfig) -> None:
        """Look for missing inputs, inputs of a wrong shape, and unknown, missing or impossible settings.

        Raises:
            DataError: a datum lacks an input of this loss, or has it in another shape than its targets.
            ConfigError: a setting that this loss does not have, needs, or cannot use.
        """
        self.spec.check(config)
        for example in examples:
            self.spec.check_inputs(example.datum, f"data[{example.index}]")
        if not self.linear:  # settings out of range are named before the model runs
            self.term(examples[0], np.zeros_like(examples[0].targets, dtype=np.float32), config)


def _cross_entropy(example: Example, logprobs: FloatArray, config: LossConfig) -> LossTerm:
    """−Σ w·lp over tokens (and over K targets of a position)."""
    weights = np.zeros_like(logprobs) if example.weights is None else example.weights
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is named by the caller
        value = cross_entropy(logprobs, weights).loss
    return LossTerm(value=value, gradient=-weights)


def _reference(spec: LossSpec) -> Callable[[Example, FloatArray, LossConfig], LossTerm]:
    """A loss that is computed as its reference says: it sees N numbers, where the model made N x vocabulary."""

    def term(example: Example, logprobs: FloatArray, config: LossConfig) -> LossTerm:
        with np.errstate(invalid="ignore", over="ignore"):
            found = spec.evaluate(example.shaped(logprobs), example.datum, config)
            gradient = found.gradient.astype(np.float32).reshape(logprobs.shape)
        return LossTerm(value=found.loss, gradient=gradient)

    return term


LOSSES: Mapping[str, Loss] = {
    name: Loss(spec=spec, linear=False, weighted=False, term=_reference(spec))
    for name, spec in references.LOSSES.items()
} | {
    "cross_entropy": Loss(
        spec=references.LOSSES["cross_entropy"], linear=True, weighted=True, term=_cross_entropy
    )
}


def find_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        ConfigError: there is none; the message names the nearest and those there are.
    """
    return LOSSES[references.find_loss(name).name]
