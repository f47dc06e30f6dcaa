"""Which linear layers of a model carry an adapter, and the layer that applies one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    "together",
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
    """``x Wᵀ + b + s (x Aᵀ) Bᵀ`` of layers that read the same x, W and b frozen; gradients for x, A and B only.

    The layers' A stand on one another: one product for all of them, and one sum for the gradient of x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, layers: tuple[AdaptedLinear, ...], *pairs: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        scale = layers[0].active.scale
        weights = [layer.matrix for layer in layers]
        downs, ups = pairs[: len(layers)], [b.to(x.dtype) for b in pairs[len(layers) :]]
        stacked = (torch.cat(downs) if len(downs) > 1 else downs[0]).to(x.dtype)
        flat = x.reshape(-1, x.shape[-1])
        down = linear(flat, stacked)
        outs = []
        for layer, weight, up, part in zip(layers, weights, ups, _parts(down, ups), strict=True):
            out = linear(x, weight, layer.bias)
            out.view(-1, out.shape[-1]).addmm_(part, up.t(), alpha=scale)
            outs.append(out)
        ctx.save_for_backward(flat, stacked, down, *ups)
        ctx.weights, ctx.scale, ctx.shape = weights, scale, x.shape
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, stacked, down, *ups = ctx.saved_tensors
        rows = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        through = torch.empty_like(down)
        for grad, up, part in zip(rows, ups, _parts(through, ups), strict=True):
            torch.mm(grad, up, out=part)
        of_a = (through.t() @ flat).float().mul_(ctx.scale).split_with_sizes([up.shape[1] for up in ups])
        of_b = [
            (grad.t() @ part).float().mul_(ctx.scale)
            for grad, part in zip(rows, _parts(down, ups), strict=True)
        ]
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = rows[0] @ ctx.weights[0]
            for grad, weight in zip(rows[1:], ctx.weights[1:], strict=True):
                of_x.addmm_(grad, weight)
            of_x = of_x.addmm_(through, stacked, alpha=ctx.scale).view(ctx.shape)
        return of_x, None, *of_a, *of_b


def _parts(columns: torch.Tensor, ups: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Columns of each layer's rank."""
    return columns.split_with_sizes([up.shape[1] for up in ups], dim=1)


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
        out: torch.Tensor = _LowRank.apply(x, (self,), *pair)[0]  # type: ignore[no-untyped-call]
        return out

    def _steady(self, x: torch.Tensor, pair: Pair | None) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out = steady_product(flat, self.matrix, self.bias)
        if pair is not None:
            a, b = (t.detach().to(x.dtype) for t in pair)
            out.add_(steady_product(steady_product(flat, a), b), alpha=self.active.scale)
        return out.view(*x.shape[:-1], -1)


def together(layers: Sequence[nn.Module], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What each of the layers makes of the same x, [..., in] to [..., out]; with a graph, adapted ones in one node.

    Without a graph each has its products for itself: how they are split among threads must not depend on rows.
    """
    if not torch.is_grad_enabled():
        return tuple(layer(x) for layer in layers)
    adapted = tuple(layer for layer in layers if isinstance(layer, AdaptedLinear))
    pairs = [layer.active.pairs.get(layer.path) for layer in adapted]
    found = [pair for pair in pairs if pair is not None]
    if len(found) < len(layers):
        return tuple(layer(x) for layer in layers)
    of_a, of_b = zip(*found, strict=True)
    outs: tuple[torch.Tensor, ...] = _LowRank.apply(x, adapted, *of_a, *of_b)  # type: ignore[no-untyped-call]
    return outs


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
