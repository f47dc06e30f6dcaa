"""Low-rank adapters as plain tensors: initialisation, names, copies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from crucible_ir.errors import ConfigError
from crucible_torch.layers import Pair
from crucible_train.types import LoraConfig

__all__ = ["Adapter", "fresh_adapter", "named_tensors", "pairs_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Pairs by layer path, float32, and the scale ``alpha / rank`` of their product."""

    pairs: Mapping[str, Pair]
    scale: float

    def copy(self) -> Adapter:
        """The same values in tensors of their own that need no gradient."""
        copied = {path: (a.detach().clone(), b.detach().clone()) for path, (a, b) in self.pairs.items()}
        return Adapter(pairs=copied, scale=self.scale)


def fresh_adapter(
    shapes: Mapping[str, tuple[int, int]], lora: LoraConfig, *, seed: int, device: torch.device
) -> Adapter:
    """A from kaiming-uniform with a = √5 (±1/√in), B zero, as peft initialises them.

    ``shapes`` gives (out, in) per layer path. Values come from one generator on the CPU, in the order of
    ``shapes``, so that they are the same on every device.

    Raises:
        ConfigError: no layer to train, or the rank is greater than a layer's width.
    """
    if not shapes:
        raise ConfigError(
            what="no layer of this model is of a kind that is to be trained",
            where="lora",
            remedy="set train_attn, train_mlp or train_unembed",
        )
    narrow = min(shapes.items(), key=lambda item: min(item[1]))
    if lora.rank > min(narrow[1]):
        raise ConfigError(
            what=f"rank = {lora.rank} is greater than the width {min(narrow[1])} of {narrow[0]}",
            where="lora.rank",
            remedy=f"give a rank ≤ {min(narrow[1])}, or train without that kind of layer",
        )
    generator = torch.Generator().manual_seed(seed)
    pairs: dict[str, Pair] = {}
    for path, (out_width, in_width) in shapes.items():
        bound = 1.0 / math.sqrt(in_width)
        a = torch.empty(lora.rank, in_width).uniform_(-bound, bound, generator=generator).to(device)
        b = torch.zeros(out_width, lora.rank, device=device)
        pairs[path] = (a.requires_grad_(), b.requires_grad_())
    return Adapter(pairs=pairs, scale=lora.alpha / lora.rank)


def named_tensors(pairs: Mapping[str, Pair]) -> dict[str, torch.Tensor]:
    """Tensors by the names they have on disk: ``<layer path>.lora_A.weight`` and ``…lora_B.weight``."""
    named: dict[str, torch.Tensor] = {}
    for path, (a, b) in pairs.items():
        named[f"{path}.lora_A.weight"] = a
        named[f"{path}.lora_B.weight"] = b
    return named


def pairs_of(named: Mapping[str, torch.Tensor], paths: Iterable[str]) -> dict[str, Pair]:
    """The inverse of ``named_tensors``."""
    return {path: (named[f"{path}.lora_A.weight"], named[f"{path}.lora_B.weight"]) for path in paths}
