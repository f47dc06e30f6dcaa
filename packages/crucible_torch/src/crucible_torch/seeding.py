"""Backward from a gradient that is known, at no cost beyond it."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["backward_from"]


class _Seed(torch.autograd.Function):
    """A scalar whose gradient for ``states`` is the one given."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        ctx.grad = grad
        return states.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.grad, None


def backward_from(states: torch.Tensor, grad: torch.Tensor) -> None:
    """Let ``grad``, ∂loss/∂states of the same shape and dtype, flow back from ``states``.

    ``torch.autograd.backward(states, grad)`` does the same after importing sympy to compare the two shapes,
    which takes longer than the first steps of a small model.
    """
    scalar: torch.Tensor = _Seed.apply(states, grad)  # type: ignore[no-untyped-call]
    scalar.backward()  # type: ignore[no-untyped-call]
