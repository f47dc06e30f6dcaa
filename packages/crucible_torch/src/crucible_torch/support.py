"""Whether the engine can serve a model and a request, told from the model's config alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_ir.errors import ConfigError, Problem
from crucible_torch.location import ModelFiles
from crucible_train.types import LoraConfig

__all__ = ["check_support"]

_SCALED_LOGITS = ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "logits_scaling")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def check_support(files: ModelFiles, lora: LoraConfig | None) -> None:
    """Say everything about ``files`` and ``lora`` that the engine cannot do.

    Raises:
        ConfigError: with one problem per obstacle.
    """
    problems = [*_model_problems(files), *(_lora_problems(files.config, lora) if lora else ())]
    if problems:
        raise ConfigError(problems=problems)


def _model_problems(files: ModelFiles) -> list[Problem]:
    config = files.config
    problems = []
    if "model_type" not in config:
        problems.append(
            Problem(
                path="base_model",
                message=f"config.json of {files.name} names no model_type",
                remedy="give a causal language model of transformers",
            )
        )
    for key in _SCALED_LOGITS:
        if config.get(key) not in (None, 1, 1.0):
            problems.append(
                Problem(
                    path="base_model",
                    message=f"{files.name} scales its logits ({key} = {config[key]}), which is not supported",
                    remedy="use a model without it, such as Llama, Qwen or Mistral",
                )
            )
    return problems


def _lora_problems(config: Mapping[str, Any], lora: LoraConfig) -> list[Problem]:
    problems = []
    experts = next((key for key in _EXPERTS if (config.get(key) or 0) > 1), None)
    if experts and lora.train_mlp:
        problems.append(
            Problem(
                path="lora.train_mlp",
                message=f"the model is a mixture of experts ({experts} = {config[experts]})",
                remedy="set train_mlp=false; adapters go on attention and output layers only",
            )
        )
    for flag, key, width in _widths(config, lora):
        if width is not None and lora.rank > width:
            problems.append(
                Problem(
                    path="lora.rank",
                    message=f"rank = {lora.rank} is greater than {key} = {width}",
                    remedy=f"give a rank ≤ {width}, or set {flag}=false",
                )
            )
            break
    return problems


def _widths(config: Mapping[str, Any], lora: LoraConfig) -> list[tuple[str, str, int | None]]:
    """(flag, name of the width, width) of the narrow sides of the layers that ``lora`` trains."""
    hidden = config.get("hidden_size") or config.get("n_embd")
    widths: list[tuple[str, str, int | None]] = [("train_unembed", "hidden_size", hidden)]
    if lora.train_mlp:
        widths.append(("train_mlp", "intermediate_size", config.get("intermediate_size")))
    heads, key_heads = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if lora.train_attn and hidden and heads and key_heads:
        per_head = config.get("head_dim") or hidden // heads
        widths.append(("train_attn", "num_key_value_heads × head_dim", key_heads * per_head))
    return sorted(widths, key=lambda item: item[2] if item[2] is not None else 1 << 62)
