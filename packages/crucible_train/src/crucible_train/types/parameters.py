"""Settings of one call: optimiser, adapter, loss, sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from crucible_ir.errors import ConfigError

__all__ = ["AdamParams", "LoraConfig", "LossConfig", "LossName", "SamplingParams", "StopCondition"]

LossName = Literal["cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo"]
LossConfig = Mapping[str, float]
StopCondition = str | Sequence[str] | Sequence[int] | None


def _require(holds: bool, field: str, value: object, remedy: str) -> None:
    if not holds:
        raise ConfigError(what=f"{field} = {value!r}", where=field, remedy=remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamParams:
    """AdamW settings of one optimiser step; ``grad_clip_norm`` 0 means no clipping."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0

    def __post_init__(self) -> None:
        _require(self.learning_rate >= 0, "learning_rate", self.learning_rate, "give a rate ≥ 0")
        _require(0 <= self.beta1 < 1, "beta1", self.beta1, "give 0 ≤ beta1 < 1")
        _require(0 <= self.beta2 < 1, "beta2", self.beta2, "give 0 ≤ beta2 < 1")
        _require(self.eps > 0, "eps", self.eps, "give eps > 0")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "give a decay ≥ 0")
        _require(self.grad_clip_norm >= 0, "grad_clip_norm", self.grad_clip_norm, "give a norm ≥ 0; 0 is off")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """A low-rank adapter: rank, scale (alpha / rank) and which linear layers carry it."""

    rank: int = 32
    alpha: float = 32.0
    seed: int | None = None
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True

    def __post_init__(self) -> None:
        _require(self.rank >= 1, "rank", self.rank, "give a rank ≥ 1")
        _require(self.alpha > 0, "alpha", self.alpha, "give alpha > 0")
        some = self.train_mlp or self.train_attn or self.train_unembed
        _require(some, "train_mlp/train_attn/train_unembed", False, "train at least one kind of layer")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample. ``stop``: strings or token ids; None stops at the model's EOS, [] never stops early."""

    max_tokens: int = 128
    seed: int | None = None
    stop: StopCondition = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "give at least 1")
        _require(
            self.temperature >= 0, "temperature", self.temperature, "give a temperature ≥ 0; 0 is greedy"
        )
        _require(self.top_k == -1 or self.top_k >= 1, "top_k", self.top_k, "give top_k ≥ 1, or -1 for all")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "give 0 < top_p ≤ 1")
