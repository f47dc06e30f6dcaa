"""One training example: what the model reads and what the loss needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import DataError
from crucible_train.types.input import ModelInput
from crucible_train.types.tensor import TensorData

__all__ = ["Datum", "LossInputs"]

LossInputs = Mapping[str, TensorData]


@dataclass(frozen=True, slots=True)
class Datum:
    """An input of N positions with named loss inputs whose first axis is N.

    Common keys: ``target_tokens`` int64 (N,) or (N, K); ``weights`` float32 (N,) or (N, K);
    ``logprobs``, ``advantages``, ``mask`` float32 (N,).

    Raises:
        DataError: a loss input's first axis differs from the input's length.
    """

    model_input: ModelInput
    loss_fn_inputs: LossInputs

    def __post_init__(self) -> None:
        length = self.model_input.length
        for name, tensor in self.loss_fn_inputs.items():
            if tensor.shape[:1] != (length,):
                raise DataError(
                    what=f"{name} of shape {tensor.shape} for an input of {length} positions",
                    where=f"Datum.loss_fn_inputs.{name}",
                    remedy="give one entry per position of model_input",
                )
        object.__setattr__(self, "loss_fn_inputs", MappingProxyType(dict(self.loss_fn_inputs)))

    @property
    def target_tokens(self) -> NDArray[np.int64]:
        """Targets, int64 (N,) or (N, K)."""
        return self._named("target_tokens").array.astype(np.int64, copy=False)

    @property
    def weights(self) -> NDArray[np.float32]:
        """Loss weights, float32 (N,) or (N, K)."""
        return self._named("weights").array.astype(np.float32, copy=False)

    @property
    def num_loss_tokens(self) -> float:
        """Sum of the loss weights."""
        return float(np.add.reduce(self.weights, axis=None))

    def _named(self, name: str) -> TensorData:
        try:
            return self.loss_fn_inputs[name]
        except KeyError:
            raise DataError(
                what=f"datum has no {name!r}; it has {sorted(self.loss_fn_inputs)}",
                where="Datum.loss_fn_inputs",
                remedy=f"build the datum with {name!r}",
            ) from None
