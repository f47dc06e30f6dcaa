"""Losses by name: the value of an example and the gradient for its log-probabilities.

Losses are sums over tokens; what they compute is said in ``crucible_train.losses``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crucible_torch.packing import Example, weighted_positions
from crucible_train import losses as references
from crucible_train.losses import LossSpec, cross_entropy
from crucible_train.types import LossConfig

__all__ = ["LOSSES", "Loss", "LossTerm", "find_loss"]

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
_MASKS = ("mask", "sequence_ratio_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerm:
    """Value of one example and ∂value/∂logprobs, float32 (N, K)."""

    value: float
    gradient: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A loss: its reference and how it is computed from log-probabilities (N, K).

    ``reach`` is what the gradient at a position depends on: no log-probability, the one of the position, or those
    of the whole sequence. ``counted`` (N,) are the positions whose log-probabilities the loss or its metrics
    read; ``graded`` tells whether an example has a gradient at all.
    """

    spec: LossSpec
    reach: Literal["nothing", "position", "sequence"]
    counted: Callable[[Example], BoolArray]
    graded: Callable[[Example], bool]
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
        if self.reach != "nothing":  # settings out of range are named before the model runs
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


def _sampled_positions(example: Example) -> BoolArray:
    """Where a token was sampled or has an advantage.

    Without a mask nothing tells a token sampled with log-probability 0 from one of the prompt. Then it is
    everything from the first advantage or recorded log-probability on, and everything if there is no advantage.
    """
    inputs = example.datum.loss_fn_inputs

    def signs(*names: str) -> BoolArray:
        found = np.zeros(example.length, dtype=np.bool_)
        for name in names:
            if name in inputs:
                found |= (inputs[name].array.reshape(example.length, -1) != 0).any(axis=1)
        return found

    if any(name in inputs for name in _MASKS):
        return signs(*_MASKS, "advantages", "weights")
    found = signs("advantages", "logprobs", "weights")
    found[int(found.argmax()) if _has_advantage(example) else 0 :] = True
    return found


def _pulled_positions(example: Example) -> BoolArray:
    """As dro counts: where its mask is, and everywhere without one."""
    if "mask" in example.datum.loss_fn_inputs:
        return _sampled_positions(example)
    return np.ones(example.length, dtype=np.bool_)


def _has_advantage(example: Example) -> bool:
    return bool(example.datum.loss_fn_inputs["advantages"].array.any())


def _policy(spec: LossSpec) -> Loss:
    pulls = spec.name == "dro"  # at every token, whatever its advantage
    return Loss(
        spec=spec,
        reach="sequence" if spec.name == "gspo" else "position",
        counted=_pulled_positions if pulls else _sampled_positions,
        graded=(lambda example: True) if pulls else _has_advantage,
        term=_reference(spec),
    )


LOSSES: Mapping[str, Loss] = {name: _policy(spec) for name, spec in references.LOSSES.items()} | {
    "cross_entropy": Loss(
        spec=references.LOSSES["cross_entropy"],
        reach="nothing",
        counted=weighted_positions,
        graded=lambda example: True,
        term=_cross_entropy,
    )
}


def find_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        ConfigError: there is none; the message names the nearest and those there are.
    """
    return LOSSES[references.find_loss(name).name]
