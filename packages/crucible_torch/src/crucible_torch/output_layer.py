"""The output layer of a model: scores of every token, and their gradient without a graph."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from torch.nn.functional import linear

from crucible_torch.layers import AdaptedLinear
from crucible_torch.model import LoadedModel
from crucible_torch.seeding import backward_from

__all__ = ["OutputLayer", "output_layer"]


class OutputLayer(Protocol):
    """Scores of some positions and what flows back from them."""

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Scores [r, vocabulary] after states [r, width], which the caller may overwrite."""
        ...

    def pull(self, states: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        """∂loss/∂states for a slope ∂loss/∂logits [r, vocabulary]; own weights get their share of it."""
        ...


class _Plain:
    """``x Wᵀ + b``; weights that are trained have their gradient added."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight, self._bias = weight, bias
        self._matrix = weight.detach()

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return linear(states, self._matrix, None if self._bias is None else self._bias.detach())

    def pull(self, states: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        if self._weight.requires_grad:
            _add_product(self._weight, slope, states, 1.0)
        if self._bias is not None and self._bias.requires_grad:
            total = slope.sum(0)
            self._bias.grad = total if self._bias.grad is None else self._bias.grad.add_(total)
        return slope @ self._matrix


class _Adapted:
    """``x Wᵀ + b + s (x Aᵀ) Bᵀ``, W and b frozen; A and B have their gradients added."""

    def __init__(self, layer: AdaptedLinear) -> None:
        self._layer = layer
        self._pair = layer.active.pairs[layer.path]
        self._a, self._b = (t.detach().to(layer.weight.dtype) for t in self._pair)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        down = linear(states, self._a)
        scores = linear(states, self._layer.matrix, self._layer.bias)
        return scores.addmm_(down, self._b.t(), alpha=self._layer.active.scale)

    def pull(self, states: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        scale = self._layer.active.scale
        through = slope @ self._b
        of_a, of_b = self._pair
        _add_product(of_a, through, states, scale)
        _add_product(of_b, slope, linear(states, self._a), scale)
        return (slope @ self._layer.matrix).addmm_(through, self._a, alpha=scale)


class _Foreign:
    """A layer of another kind, whose gradient autograd finds."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return self._model.logits(states).clone()

    def pull(self, states: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        piece = states.detach().requires_grad_()
        with torch.enable_grad():
            backward_from(self._model.logits(piece), slope)
        return torch.zeros_like(states) if piece.grad is None else piece.grad


def _add_product(leaf: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> None:
    """Add ``scale · leftᵀ right`` to the gradient of ``leaf``, in its dtype."""
    if leaf.grad is None and left.dtype == leaf.dtype:
        leaf.grad = (left.t() @ right).mul_(scale)
    elif left.dtype == leaf.dtype and leaf.grad is not None:
        leaf.grad.addmm_(left.t(), right, alpha=scale)
    else:
        found = (left.t() @ right).to(leaf.dtype).mul_(scale)
        leaf.grad = found if leaf.grad is None else leaf.grad.add_(found)


def output_layer(model: LoadedModel) -> OutputLayer:
    """The model's output layer with the adapter that it applies now."""
    layer = model.module.get_output_embeddings()
    if isinstance(layer, AdaptedLinear):
        if layer.path in layer.active.pairs:
            return _Adapted(layer)
        return _Plain(layer.matrix, None if layer.bias is None else layer.bias.detach())
    if isinstance(layer, nn.Linear):
        return _Plain(layer.weight, layer.bias)
    return _Foreign(model)
