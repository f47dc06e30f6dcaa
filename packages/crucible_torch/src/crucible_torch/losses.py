"""Losses by name: the value of an example and the gradient for its log-probabilities.

Losses are sums over tokens. A new loss is one entry in ``LOSSES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import ConfigError, DataError, nearest
from crucible_torch.packing import Example
from crucible_train.losses import cross_entropy
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
    """A loss: what it reads from a datum and how it is computed from log-probabilities (N, K).

    ``linear`` says that the gradient does not depend on the log-probabilities: ``term`` may then be asked
    for it before they are known, and one pass over the head does. ``weighted`` says that positions of
    weight 0 have no part in it.
    """

    name: str
    inputs: tuple[str, ...]
    settings: tuple[str, ...]
    linear: bool
    weighted: bool
    term: Callable[[Example, FloatArray, LossConfig], LossTerm]

    def check(self, examples: list[Example], config: LossConfig) -> None:
        """Look for missing inputs and unknown settings.

        Raises:
            DataError: a datum lacks an input of this loss.
            ConfigError: a setting that this loss does not have.
        """
        unknown = sorted(set(config) - set(self.settings))
        if unknown:
            raise ConfigError(
                what=f"{self.name} has no setting {', '.join(unknown)}",
                where="loss_config",
                remedy=f"it has {', '.join(self.settings) or 'none'}",
            )
        for example in examples:
            for name in self.inputs:
                if name not in example.datum.loss_fn_inputs:
                    raise DataError(
                        what=f"{self.name} needs {name!r}; the datum has {sorted(example.datum.loss_fn_inputs)}",
                        where=f"data[{example.index}].loss_fn_inputs",
                        remedy=f"build the datum with {name!r}",
                    )


def _cross_entropy(example: Example, logprobs: FloatArray, config: LossConfig) -> LossTerm:
    """−Σ w·lp over tokens (and over K targets of a position)."""
    weights = np.zeros_like(logprobs) if example.weights is None else example.weights
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is named by the caller
        value = cross_entropy(logprobs, weights).loss
    return LossTerm(value=value, gradient=-weights)


LOSSES: Mapping[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss(
            name="cross_entropy",
            inputs=("target_tokens", "weights"),
            settings=(),
            linear=True,
            weighted=True,
            term=_cross_entropy,
        ),
    )
}


def find_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        ConfigError: there is none; the message names those there are.
    """
    if name in LOSSES:
        return LOSSES[name]
    close = nearest(name, LOSSES)
    hint = f"did you mean {close!r}? " if close else ""
    raise ConfigError(
        what=f"the local engine has no loss {name!r}",
        where="loss_fn",
        remedy=f"{hint}It has {', '.join(sorted(LOSSES))}; forward_backward_custom takes any other",
    )
