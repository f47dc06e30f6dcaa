"""Decoders of the Llama family (``decoder``), run with few and large operations.

Sampling is bound by the number of operations as much as by their size. Here the query, key and value products of
a layer are one, and products multiply and add what follows them. What is computed is what the modules
compute, to the last bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.functional import embedding, silu

from crucible_torch.attention import RowPlan
from crucible_torch.decoder import Decoder, Layer
from crucible_torch.products import LowRank, Matrix, Pairs, low_rank

__all__ = ["FusedAdapter", "FusedDecoder"]

_GROUPS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate": ("mlp.gate_proj",),
    "up": ("mlp.up_proj",),
    "down": ("mlp.down_proj",),
}
_POSITIONS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One block: its products, the weights of its norms, and how its attention scales and how far it sees."""

    products: Mapping[str, Matrix]
    before: torch.Tensor
    between: torch.Tensor
    heads: torch.Tensor | None
    how: tuple[float, int | None]


@dataclass(frozen=True, slots=True)
class FusedAdapter:
    """Adapters by layer and product, and that of the output layer."""

    layers: tuple[Mapping[str, LowRank | None], ...]
    head: LowRank | None


class FusedDecoder:
    """A decoder whose weights are as they were when this was made; embedding and norms are the module's own."""

    def __init__(self, module: Decoder) -> None:
        blocks = cast("list[Layer]", list(module.model.layers))
        attention = blocks[0].self_attn
        self._embedding = module.model.embed_tokens.weight.detach()
        self._query_heads = len(attention.q_proj.weight) // attention.head_dim
        self._key_heads = len(attention.k_proj.weight) // attention.head_dim
        self._head_dim = attention.head_dim
        self._least = torch.tensor(module.model.norm.eps, device=self._embedding.device)
        self._frequencies = module.model.inv_freq.float()
        self._norm = module.model.norm.weight.detach()
        self._layers = tuple(self._layer(block) for block in blocks)
        self._head = Matrix([module.lm_head.weight])
        self._outputs = {
            name: {path: len(_weight(blocks[0], path)) for path in paths} for name, paths in _GROUPS.items()
        }
        self._table: tuple[torch.Tensor, torch.Tensor] | None = None

    @staticmethod
    def serves(module: Any) -> bool:
        """Whether this class computes what the module computes."""
        return isinstance(module, Decoder)

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self._layers)

    def adapted(self, pairs: Pairs, scale: float) -> FusedAdapter:
        """Adapters, laid out for the products here."""
        dtype = self._embedding.dtype
        layers = tuple(
            {
                name: low_rank(
                    pairs,
                    {f"model.layers.{i}.{path}": width for path, width in outputs.items()},
                    scale,
                    dtype,
                )
                for name, outputs in self._outputs.items()
            }
            for i in range(len(self._layers))
        )
        return FusedAdapter(layers, low_rank(pairs, {"lm_head": len(self._embedding)}, scale, dtype))

    def hidden(
        self,
        rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
        attention: RowPlan,
        adapter: FusedAdapter | None,
    ) -> torch.Tensor:
        """Last hidden states [rows, width] of token ids, positions, both (rows,), and those of them that are wanted."""
        tokens, positions, wanted = rows
        x = embedding(tokens, self._embedding)
        table = self._rotation(int(positions.max()) + 1)
        turn = [part[positions][:, None] for part in table]
        for index, layer in enumerate(self._layers):
            extra: Mapping[str, LowRank | None] = {} if adapter is None else adapter.layers[index]
            y = _product(layer, "qkv", self._normed(x, layer.before), extra)
            seen = attention.attend(index, self._streams(layer, y, turn), layer.how)
            if wanted is not None and index == len(self._layers) - 1:
                x, seen = x[wanted], seen[wanted]
            x = _joined(layer, "out", seen, x, extra)
            inner = _gated(layer, self._normed(x, layer.between), extra)
            x = _joined(layer, "down", inner, x, extra)
        return self._normed(x, self._norm)

    def new_block(self, tokens: int) -> torch.Tensor:
        """Room for keys and values of so many tokens, [layers, 2, heads, tokens, head_dim]."""
        heads = self._key_heads
        return self._embedding.new_empty(len(self._layers), 2, heads, tokens, self._head_dim)

    def logits(self, states: torch.Tensor, adapter: FusedAdapter | None) -> torch.Tensor:
        """Scores [rows, vocabulary] of states [rows, width]."""
        scores = self._head(states)
        return scores if adapter is None or adapter.head is None else adapter.head.added(states, scores)

    def _layer(self, block: Layer) -> _Layer:
        attention = block.self_attn
        products = {}
        for name, paths in _GROUPS.items():
            biases = [cast("torch.Tensor | None", block.get_submodule(path).bias) for path in paths]
            products[name] = Matrix([_weight(block, path) for path in paths], biases)
        heads = None
        if attention.q_norm is not None and attention.k_norm is not None:
            norms = (attention.q_norm, self._query_heads), (attention.k_norm, self._key_heads)
            heads = torch.cat([norm.weight.detach().expand(count, -1) for norm, count in norms])
        return _Layer(
            products=products,
            before=block.input_layernorm.weight.detach(),
            between=block.post_attention_layernorm.weight.detach(),
            heads=heads,
            how=(attention.scaling, attention.window),
        )

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """w x / √(mean x² + ε) over the last dimension."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        size = torch.addcmul(self._least, size, size, value=1 / x.shape[-1]).rsqrt_()
        return (x * size.to(x.dtype)).mul_(weight)

    def _streams(
        self, layer: _Layer, y: torch.Tensor, turn: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value [rows, heads, head_dim]; query and key are normed where the model does, and rotated."""
        query, key = self._query_heads, self._key_heads
        heads = y.view(y.shape[0], query + 2 * key, -1)
        turning = heads[:, : query + key]
        if layer.heads is not None:
            turning = self._normed(turning, layer.heads)
        cos, sin = turn
        half = turning.shape[-1] // 2
        turned = turning * cos
        turned[..., :half].addcmul_(turning[..., half:], sin, value=-1)
        turned[..., half:].addcmul_(turning[..., :half], sin)
        return turned[:, :query], turned[:, query:], heads[:, query + key :]

    def _rotation(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines [positions, head_dim] and sines [positions, head_dim / 2] for at least ``length`` positions."""
        if self._table is None or len(self._table[0]) < length:
            places = torch.arange(-(-length // _POSITIONS) * _POSITIONS, device=self._embedding.device)
            angles = places[:, None].float() * self._frequencies
            cos, sin = angles.cos().to(self._embedding.dtype), angles.sin().to(self._embedding.dtype)
            self._table = torch.cat([cos, cos], dim=1), sin
        return self._table


def _weight(block: Layer, path: str) -> torch.Tensor:
    return cast("torch.Tensor", block.get_submodule(path).weight)


def _product(layer: _Layer, name: str, x: torch.Tensor, extra: Mapping[str, LowRank | None]) -> torch.Tensor:
    """A product of a layer with what its adapter adds."""
    out = layer.products[name](x)
    adapter = extra.get(name)
    return out if adapter is None else adapter.added(x, out)


def _gated(layer: _Layer, x: torch.Tensor, extra: Mapping[str, LowRank | None]) -> torch.Tensor:
    """silu(gate) · up, in the products themselves where no adapter is added to them."""
    gate, up = layer.products["gate"], layer.products["up"]
    if extra.get("gate") is None and extra.get("up") is None:
        return up.times(x, gate.swished(x))
    return silu(_product(layer, "gate", x, extra)).mul_(_product(layer, "up", x, extra))


def _joined(
    layer: _Layer, name: str, x: torch.Tensor, to: torch.Tensor, extra: Mapping[str, LowRank | None]
) -> torch.Tensor:
    """The residual stream with a product and what its adapter adds."""
    out = layer.products[name].added(x, to)
    adapter = extra.get(name)
    return out if adapter is None else adapter.added(x, out)
