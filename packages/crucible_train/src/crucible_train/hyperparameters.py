"""Rules for learning rates and adapter sizes.

lr = 5e-5 · (10 with LoRA) · (2000 / H)^p, with H the hidden size and p = 0.781 for the Llama family, 0.0775
for the Qwen family; other families have no calibrated rule. Source: tinker-cookbook, "LoRA Without Regret".
"""

from __future__ import annotations

from typing import Final, Literal

from crucible_ir.errors import ConfigError
from crucible_train.models import model_facts

__all__ = [
    "LORA_OVER_FULL",
    "ModelFamily",
    "get_lora_param_count",
    "get_lr",
    "hidden_size",
    "scaled_lr",
]

ModelFamily = Literal["llama", "qwen"]

LORA_OVER_FULL: Final = 10.0
"""How many times the rate of full fine-tuning suits LoRA, whatever the rank."""

_BASE_LR: Final = 5e-5
_REFERENCE_WIDTH: Final = 2000
_EXPONENTS: Final[dict[str, float]] = {"llama": 0.781, "qwen": 0.0775}
_FAMILIES: Final[dict[str, ModelFamily]] = {"meta-llama": "llama", "qwen": "qwen"}


def scaled_lr(hidden_size: int, family: ModelFamily, *, is_lora: bool = True) -> float:
    """The rule itself, for a model of this width and family.

    Raises:
        ConfigError: the width is below 1, or the family has no rule.
    """
    if hidden_size < 1:
        raise ConfigError(
            what=f"hidden_size = {hidden_size}", where="hidden_size", remedy="give a width of 1 or more"
        )
    if family not in _EXPONENTS:
        raise ConfigError(
            what=f"no learning-rate rule for the family {family!r}",
            where="family",
            remedy=f"give the rate yourself; rules: {', '.join(_EXPONENTS)}",
        )
    base = _BASE_LR * LORA_OVER_FULL if is_lora else _BASE_LR
    return float(base * (_REFERENCE_WIDTH / hidden_size) ** _EXPONENTS[family])


def get_lr(model: str, is_lora: bool = True) -> float:
    """Recommended learning rate for a known model.

    Raises:
        ConfigError: the model is unknown, or its family has no calibrated rule.
    """
    width = hidden_size(model)
    family = _FAMILIES.get(model.split("/", 1)[0].lower())
    if family is None:
        raise ConfigError(
            what=f"no learning-rate rule is calibrated for {model!r}",
            where="learning_rate",
            remedy="give the rate yourself",
        )
    return scaled_lr(width, family, is_lora=is_lora)


def hidden_size(model: str) -> int:
    """Width of a known model.

    Raises:
        ConfigError: the model is unknown.
    """
    return model_facts(model).hidden_size


def get_lora_param_count(
    model: str,
    lora_rank: int = 32,
    *,
    train_mlp: bool = True,
    train_attn: bool = True,
    train_unembed: bool = True,
) -> int:
    """Trainable parameters of an adapter on a known model.

    Raises:
        ConfigError: the model is unknown, the rank is below 1, or nothing would be trained.
    """
    if lora_rank < 1:
        raise ConfigError(
            what=f"lora_rank = {lora_rank}", where="lora_rank", remedy="give a rank of 1 or more"
        )
    if not (train_mlp or train_attn or train_unembed):
        raise ConfigError(
            what="no part of the model is trained",
            where="train_mlp/train_attn/train_unembed",
            remedy="train at least one kind of layer",
        )
    facts = model_facts(model)
    per_rank = facts.mlp * train_mlp + facts.attn * train_attn + facts.unembed * train_unembed
    return lora_rank * per_rank
