"""Which linear layers of a model carry an adapter, and the layer that applies one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import linear

from crucible_torch.products import steady_product
from crucible_train.types import LoraConfig

__all__ = [
    "ActiveAdapter",
    "AdaptedLinear",
    "LayerKind",
    "Pair",
    "adaptable_layers",
    "install",
    "wanted_layers",
]

LayerKind = Literal["attn", "mlp", "unembed"]
Pair = tuple[torch.Tensor, torch.Tensor]
"""``A`` [rank, in] and ``B`` [out, rank], float32."""


@dataclass(slots=True)
class ActiveAdapter:
    """The adapter that the shared base applies now; the engine's one thread sets it before each job."""

    pairs: Mapping[str, Pair] = field(default_factory=dict)
    scale: float = 1.0


class _LowRank(torch.autograd.Function):
    """``x Wᵀ + b + s (x Aᵀ) Bᵀ`` with W and b frozen; gradients for x, A and B only."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: AdaptedLinear, *pair: torch.Tensor) -> torch.Tensor:
        scale = layer.active.scale
        a, b = (t.to(x.dtype) for t in pair)
        weight = layer.matrix
        flat = x.reshape(-1, x.shape[-1])
        out = linear(x, weight, layer.bias)
        down = linear(flat, a)
        out.view(-1, out.shape[-1]).addmm_(down, b.t(), alpha=scale)
        ctx.save_for_backward(flat, weight, a, b, down)
        ctx.scale, ctx.shape = scale, x.shape
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, weight, a, b, down = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        through = grad @ b
        grad_a = (through.t() @ flat).float().mul_(ctx.scale)
        grad_b = (grad.t() @ down).float().mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(through, a, alpha=ctx.scale).view(ctx.shape)
        return grad_x, None, grad_a, grad_b


class AdaptedLinear(nn.Module):
    """A frozen linear layer that adds the active adapter's pair for its path, if there is one."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, inner: Any, path: str, active: ActiveAdapter) -> None:
        super().__init__()
        self.weight = inner.weight
        self.bias = inner.bias
        self.path = path
        self.active = active
        self.transposed = not isinstance(inner, nn.Linear)

    @property
    def matrix(self) -> torch.Tensor:
        """The frozen weight as [out, in]."""
        weight = self.weight.detach()
        return weight.t() if self.transposed else weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]; in inference mode no row depends on how many there are (``products``)."""
        pair = self.active.pairs.get(self.path)
        if torch.is_inference_mode_enabled():
            return self._steady(x, pair)
        if pair is None:
            return linear(x, self.matrix, self.bias)
        out: torch.Tensor = _LowRank.apply(x, self, *pair)  # type: ignore[no-untyped-call]
        return out

    def _steady(self, x: torch.Tensor, pair: Pair | None) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out = steady_product(flat, self.matrix, self.bias)
        if pair is not None:
            a, b = (t.detach().to(x.dtype) for t in pair)
            out.add_(steady_product(steady_product(flat, a), b), alpha=self.active.scale)
        return out.view(*x.shape[:-1], -1)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def adaptable_layers(model: Any) -> dict[str, LayerKind]:
    """Path and kind of every linear layer that can carry an adapter, in the model's order.

    The output embedding is ``unembed``; within the decoder layers, what lies in an attention block is
    ``attn`` and the rest ``mlp``.
    """
    head = model.get_output_embeddings()
    found: dict[str, LayerKind] = {}
    for path, module in model.named_modules():
        if module is head:
            found[path] = "unembed"
        elif _is_linear(module):
            found[path] = "attn" if "attn" in path or "attention" in path else "mlp"
    return found


def wanted_layers(layers: Mapping[str, LayerKind], lora: LoraConfig) -> list[str]:
    """Paths of the layers that ``lora`` trains."""
    flags = {"attn": lora.train_attn, "mlp": lora.train_mlp, "unembed": lora.train_unembed}
    return [path for path, kind in layers.items() if flags[kind]]


def install(model: Any, active: ActiveAdapter) -> dict[str, AdaptedLinear]:
    """Put an ``AdaptedLinear`` in place of every adaptable layer; weights and their names stay."""
    installed: dict[str, AdaptedLinear] = {}
    for path in adaptable_layers(model):
        parent, _, name = path.rpartition(".")
        layer = AdaptedLinear(model.get_submodule(path), path, active)
        setattr(model.get_submodule(parent), name, layer)
        installed[path] = layer
    return installed
