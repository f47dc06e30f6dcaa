"""Decoders of the Llama family (Llama, Mistral, Qwen2, Qwen3) in torch alone.

Modules, parameter names and the order of operations are those of transformers' classes, so that weights fit
and results are the same bits, gradients the same up to rounding; what is left out is importing those classes,
which costs several times what torch costs. References: Touvron et al. 2023 (Llama), Su et al. 2021 (rotary
positions), Shazeer 2020 (SwiGLU), Zhang & Sennrich 2019 (RMSNorm), Ainslie et al. 2023 (grouped queries).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import silu

from crucible_torch.attention import attend
from crucible_torch.decoder_shape import DecoderShape, Rope
from crucible_torch.layers import together
from crucible_torch.nodes import normalised, turned

__all__ = ["Decoder", "DecoderConfig"]


@dataclass(slots=True, kw_only=True)
class DecoderConfig:
    """The settings that readers of a model's ``config`` look at."""

    eos_token_id: int | list[int] | None
    tie_word_embeddings: bool


class Linear(nn.Linear):
    """A linear layer whose values come from a file: none are drawn, which would import torch's compiler."""

    def __init__(self, inner: int, outer: int, *, bias: bool) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = inner, outer
        self.weight = nn.Parameter(torch.empty(outer, inner))
        self.register_parameter("bias", nn.Parameter(torch.empty(outer)) if bias else None)


@dataclass(frozen=True, slots=True)
class States:
    """Last hidden states, [rows, tokens, width]."""

    last_hidden_state: torch.Tensor


class Decoder(nn.Module):
    """A causal language model: ``model`` makes hidden states, ``lm_head`` scores tokens."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.config = DecoderConfig(eos_token_id=shape.eos, tie_word_embeddings=shape.tied)
        self.model = Body(shape)
        self.lm_head = Linear(shape.hidden_size, shape.vocab_size, bias=False)
        if shape.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def base_model(self) -> Body:
        """All but the output layer."""
        return self.model

    def get_output_embeddings(self) -> nn.Module:
        """The output layer."""
        return self.lm_head


class Body(nn.Module):
    """Embedding, layers, last norm."""

    inv_freq: torch.Tensor

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(
            shape.vocab_size, shape.hidden_size, _weight=torch.empty(shape.vocab_size, shape.hidden_size)
        )
        self.layers = nn.ModuleList([Layer(shape, index) for index in range(shape.layers)])
        self.norm = Norm(shape.hidden_size, shape.norm_eps)
        frequencies = _frequencies(shape.rope, shape.head_dim)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, *, use_cache: bool = False, **plan: Any
    ) -> States:
        """Hidden states of ids and positions [rows, tokens]; ``plan`` goes to every layer's attention."""
        states = self.embed_tokens(input_ids)
        turns = self._turns(position_ids, states.dtype)
        for layer in self.layers:
            states = layer(states, turns, plan)
        return States(self.norm(states))

    @torch.no_grad()
    def _turns(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine of every position's angles, [rows, 1, tokens, head_dim]."""
        angles = positions[..., None].float() * self.inv_freq.float()
        both = torch.cat((angles, angles), dim=-1)
        return both.cos().to(dtype).unsqueeze(1), both.sin().to(dtype).unsqueeze(1)


class Layer(nn.Module):
    """Attention and feed-forward block, each after a norm and beside a residual."""

    def __init__(self, shape: DecoderShape, index: int) -> None:
        super().__init__()
        self.self_attn = Attention(shape, index)
        self.mlp = FeedForward(shape)
        self.input_layernorm = Norm(shape.hidden_size, shape.norm_eps)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.norm_eps)

    def forward(
        self, states: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], plan: dict[str, Any]
    ) -> torch.Tensor:
        """[rows, tokens, width] to the same."""
        states = states + self.self_attn(self.input_layernorm(states), turns, plan)
        out: torch.Tensor = states + self.mlp(self.post_attention_layernorm(states))
        return out


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; the kernel is the engine's own."""

    def __init__(self, shape: DecoderShape, index: int) -> None:
        super().__init__()
        self.layer_idx = index
        self.head_dim = shape.head_dim
        self.scaling = shape.head_dim**-0.5
        self.window = shape.window
        width, wide, narrow = (n * shape.head_dim for n in (1, shape.heads, shape.key_heads))
        self.q_proj = Linear(shape.hidden_size, wide, bias=shape.qkv_bias)
        self.k_proj = Linear(shape.hidden_size, narrow, bias=shape.qkv_bias)
        self.v_proj = Linear(shape.hidden_size, narrow, bias=shape.qkv_bias)
        self.o_proj = Linear(wide, shape.hidden_size, bias=shape.out_bias)
        self.q_norm = Norm(width, shape.norm_eps) if shape.head_norm else None
        self.k_norm = Norm(width, shape.norm_eps) if shape.head_norm else None

    def forward(
        self, states: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], plan: dict[str, Any]
    ) -> torch.Tensor:
        """[rows, tokens, width] to the same."""
        split = (*states.shape[:-1], -1, self.head_dim)
        layers = self.q_proj, self.k_proj, self.v_proj
        query, key, value = (t.view(split) for t in together(layers, states))
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = (turned(t.transpose(1, 2), turns) for t in (query, key))
        value = value.transpose(1, 2)
        out, _ = attend(
            self, query, key, value, None, scaling=self.scaling, sliding_window=self.window, **plan
        )
        joined: torch.Tensor = self.o_proj(out.reshape(*states.shape[:-1], -1).contiguous())
        return joined


class FeedForward(nn.Module):
    """SwiGLU: ``down(silu(gate(x)) · up(x))``."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        outer, inner, bias = shape.hidden_size, shape.intermediate_size, shape.mlp_bias
        self.gate_proj = Linear(outer, inner, bias=bias)
        self.up_proj = Linear(outer, inner, bias=bias)
        self.down_proj = Linear(inner, outer, bias=bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[..., width] to the same."""
        gate, up = together((self.gate_proj, self.up_proj), states)
        out: torch.Tensor = self.down_proj(silu(gate) * up)
        return out


class Norm(nn.Module):
    """RMSNorm in float32, scaled in the model's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[..., width] to the same."""
        return normalised(states, self.weight, self.eps)


def _frequencies(rope: Rope, width: int) -> torch.Tensor:
    """Angle per position of each pair of components, [head_dim / 2].

    Llama 3.1 divides low frequencies by its factor and blends those in between.
    """
    with torch.device("cpu"):
        plain = 1.0 / (rope.theta ** (torch.arange(0, width, 2, dtype=torch.float) / width))
        if rope.llama3 is None:
            return plain
        factor, low, high, original = rope.llama3
        lengths = 2 * math.pi / plain
        slow = torch.where(lengths > original / low, plain / factor, plain)
        blend = (original / lengths - low) / (high - low)
        mixed = (1 - blend) * slow / factor + blend * slow
        between = ~(lengths < original / high) * ~(lengths > original / low)
        return torch.where(between, mixed, slow)
