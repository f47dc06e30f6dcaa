"""Pieces of a decoder whose gradient is written out: fewer passes over memory than autograd takes."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["causal_attention", "normalised", "turned"]

Turns = tuple[torch.Tensor, torch.Tensor]


class _RootMeanSquare(torch.autograd.Function):
    """RMSNorm (Zhang & Sennrich 2019), computed in float32 and scaled in the states' dtype."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        exact = states.float()
        scale = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps)
        exact = exact * scale if exact is states else exact.mul_(scale)
        ctx.save_for_backward(states, weight, scale)
        return exact.to(states.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """With n the normalised states and g the scaled gradient: (g − n · mean(g · n)) · scale."""
        states, weight, scale = ctx.saved_tensors
        grad = grads[0]
        normal = states.float() * scale
        for_weight = None
        if ctx.needs_input_grad[1]:
            across = tuple(range(grad.ndim - 1))
            for_weight = (grad * normal).sum(across).to(weight.dtype)
        pulled = grad * weight if grad.dtype == torch.float32 else grad.float().mul_(weight)
        mean = (pulled * normal).mean(-1, keepdim=True)
        pulled.sub_(normal.mul_(mean)).mul_(scale)
        return pulled.to(states.dtype), for_weight, None


class _Turned(torch.autograd.Function):
    """Rotary positions (Su et al. 2021): pairs half a head apart are turned by the angle of their position."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cosine, sine)
        half = states.shape[-1] // 2
        crossed = torch.cat((-states[..., half:], states[..., :half]), dim=-1)
        return (states * cosine).add_(crossed.mul_(sine))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cosine, sine = ctx.saved_tensors
        half = cosine.shape[-1] // 2
        back, crossed = grads[0] * cosine, grads[0] * sine
        back[..., :half] += crossed[..., half:]
        back[..., half:] -= crossed[..., :half]
        return back, None, None


class _MixedAttention(torch.autograd.Function):
    """Causal attention with the forward pass in bfloat16 and the gradient in float32.

    On a CPU torch's gradient of attention in bfloat16 takes several times what it takes in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, True, attn_mask=None, scale=scaling
        )
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.scaling = scaling
        result: torch.Tensor = out
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, out, sums = ctx.saved_tensors
        exact = (t.float() for t in (grads[0], query, key, value, out))
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *exact, sums, 0.0, True, attn_mask=None, scale=ctx.scaling
        )
        return *(grad.to(query.dtype) for grad in found), None


def normalised(states: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``states`` [..., width] over their root mean square, times ``weight`` (width,)."""
    out: torch.Tensor = _RootMeanSquare.apply(states, weight, eps)  # type: ignore[no-untyped-call]
    return out


def turned(states: torch.Tensor, turns: Turns) -> torch.Tensor:
    """[rows, heads, tokens, head_dim] turned by cosine and sine of their angles, [rows, 1, tokens, head_dim]."""
    out: torch.Tensor = _Turned.apply(states, *turns)  # type: ignore[no-untyped-call]
    return out


def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """[sequences, heads, tokens, head_dim] to the same; fewer key heads than query heads are shared out."""
    if query.dtype == torch.bfloat16 and query.device.type == "cpu" and query.requires_grad:
        out: torch.Tensor = _MixedAttention.apply(query, key, value, scaling)  # type: ignore[no-untyped-call]
        return out
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
