"""Losses of the caller's, in numpy, by way of the SDK's own custom losses, which are in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crucible_ir.errors import DataError
from crucible_kitchen.adapters.tinker_types import sdk_custom_datums, to_output
from crucible_train.ports import CustomLoss, CustomLossFn
from crucible_train.types import Datum, ForwardBackwardOutput

if TYPE_CHECKING:
    import tinker

__all__ = ["CustomCall"]


@dataclass(slots=True, kw_only=True)
class CustomCall:
    """One call: the SDK asks for the loss of its log-probabilities, and differentiates what it gets.

    What it gets has the loss's value, and by construction the gradients that the loss names: Σ lp·g, shifted by a
    constant, so that ∂/∂lp = g.
    """

    data: tuple[Datum, ...]
    loss: CustomLossFn
    _value: CustomLoss | None = field(default=None, init=False)

    def submit(self, sdk: Any) -> Any:
        """The SDK's future."""
        return sdk.forward_backward_custom(sdk_custom_datums(self.data), self._surrogate)

    def output(self, result: Any) -> ForwardBackwardOutput:
        """What the backward pass gave, with the loss's own value and metrics, in full precision."""
        output = to_output(result, self.data)
        if self._value is None:
            return output
        metrics = {**output.metrics, **self._value.metrics, "loss:sum": float(self._value.loss)}
        return ForwardBackwardOutput(loss_fn_outputs=output.loss_fn_outputs, metrics=metrics)

    def _surrogate(self, _: list[tinker.Datum], logprobs: Sequence[Any]) -> tuple[Any, dict[str, float]]:
        arrays = [
            np.array(tensor.detach().numpy(), dtype=np.float32).reshape(datum.target_tokens.shape)
            for tensor, datum in zip(logprobs, self.data, strict=True)
        ]
        value = self.loss(self.data, arrays)
        self._value = value
        total: Any = 0.0
        for number, (tensor, gradient) in enumerate(zip(logprobs, value.gradients, strict=True)):
            if gradient.shape != arrays[number].shape:
                raise DataError(
                    what=f"a gradient of shape {gradient.shape} for log-probabilities of {arrays[number].shape}",
                    where=f"custom loss, datum {number}",
                    remedy="give one number per target token",
                )
            wanted = tensor.new_tensor(np.array(gradient, dtype=np.float32).reshape(tensor.shape))
            total = total + (tensor * wanted).sum()
        return total + (float(value.loss) - float(total.detach())), {
            str(name): float(number) for name, number in value.metrics.items()
        }
