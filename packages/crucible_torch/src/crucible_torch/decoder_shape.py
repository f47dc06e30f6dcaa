"""What the config of a plain decoder says, as far as the engine computes such models itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["DecoderShape", "Rope", "decoder_shape"]

ModelType = Literal["llama", "mistral", "qwen2", "qwen3"]

_WHOLE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary positions: base, and for ``llama3`` scaling the four numbers of its formula, else None."""

    theta: float
    llama3: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """A decoder of the Llama family: sizes, and in what its members differ."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    norm_eps: float
    rope: Rope
    window: int | None
    """Tokens that a position sees at most; None is all before it."""
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    head_norm: bool
    """Normalise queries and keys per head (Qwen3)."""
    tied: bool
    """The output layer is the embedding."""
    eos: int | list[int] | None


def decoder_shape(config: Mapping[str, Any]) -> DecoderShape | None:
    """The shape that a ``config.json`` describes; None where transformers has to say what is meant.

    That is so for another model type, for a size or a setting that is left to a default which differs
    between models, and for any variant (activation, rotary scaling, quantisation) that is not computed here.
    """
    model_type = config.get("model_type")
    if model_type not in ("llama", "mistral", "qwen2", "qwen3") or _is_variant(config):
        return None
    rope = _rope(config)
    sizes = [config.get(name) for name in _WHOLE]
    if rope is None or not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    vocab, hidden, inner, layers, heads, key_heads = (int(size or 0) for size in sizes)
    head_dim = config.get("head_dim") or (None if model_type == "qwen3" else hidden // heads)
    eps = config.get("rms_norm_eps")
    if not isinstance(head_dim, int) or not isinstance(eps, float) or heads % key_heads or hidden % heads:
        return None
    if model_type == "mistral" and "sliding_window" not in config:
        return None
    biased = bool(config.get("attention_bias", False)) and model_type in ("llama", "qwen3")
    return DecoderShape(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        layers=layers,
        heads=heads,
        key_heads=key_heads,
        head_dim=head_dim,
        norm_eps=eps,
        rope=rope,
        window=config["sliding_window"] if model_type == "mistral" else None,
        qkv_bias=biased or model_type == "qwen2",
        out_bias=biased,
        mlp_bias=bool(config.get("mlp_bias", False)) and model_type == "llama",
        head_norm=model_type == "qwen3",
        tied=bool(config.get("tie_word_embeddings", False)),
        eos=config.get("eos_token_id", 2 if model_type in ("llama", "mistral") else None),
    )


def _is_variant(config: Mapping[str, Any]) -> bool:
    kinds = config.get("layer_types")
    return (
        config.get("hidden_act", "silu") != "silu"
        or config.get("quantization_config") is not None
        or bool(config.get("use_sliding_window", False))
        or (kinds is not None and (config["model_type"] == "mistral" or set(kinds) != {"full_attention"}))
        or config.get("partial_rotary_factor", 1.0) != 1.0
    )


def _rope(config: Mapping[str, Any]) -> Rope | None:
    """Rotary settings in the present form (``rope_parameters``) or the older one (``rope_scaling``)."""
    given = config.get("rope_parameters")
    if given is None:
        given = {"rope_theta": config.get("rope_theta"), **(config.get("rope_scaling") or {})}
    elif config.get("rope_scaling") is not None or config.get("rope_theta") is not None:
        return None
    if not isinstance(given, Mapping):
        return None
    theta, kind = given.get("rope_theta"), given.get("rope_type", given.get("type", "default"))
    known = {"rope_theta", "rope_type", "type", *(_LLAMA3 if kind == "llama3" else ())}
    if not isinstance(theta, int | float) or not known >= set(given):
        return None
    if kind == "default":
        return Rope(theta=float(theta))
    numbers = [given.get(name) for name in _LLAMA3]
    if kind != "llama3" or not all(isinstance(number, int | float) for number in numbers):
        return None
    factor, low, high, original = (float(number or 0) for number in numbers)
    return Rope(theta=float(theta), llama3=(factor, low, high, original))
