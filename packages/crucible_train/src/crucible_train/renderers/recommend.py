"""Which renderer belongs to which model: a table of names, matched as a whole and without case."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from crucible_ir.errors import ConfigError, nearest

__all__ = ["recommended_renderer", "recommended_renderers"]

_ROLE_COLON = ("role_colon",)
_LLAMA3 = ("llama3",)
_QWEN3 = ("qwen3", "qwen3_disable_thinking")
_QWEN3_INSTRUCT = ("qwen3_instruct",)
_QWEN3_VL_INSTRUCT = ("qwen3_vl_instruct",)
_QWEN3_5 = ("qwen3_5", "qwen3_5_disable_thinking", "qwen3_5_preserve_thinking")
_QWEN3_8 = (
    "qwen3_8_xhigh_reasoning",
    "qwen3_8_disable_thinking",
    "qwen3_8_medium_reasoning",
    "qwen3_8_low_reasoning",
)
_DEEPSEEK_V3 = ("deepseekv3", "deepseekv3_thinking")
_GPT_OSS = ("gpt_oss_no_sysprompt", "gpt_oss_medium_reasoning")
_NEMOTRON3 = ("nemotron3", "nemotron3_disable_thinking", "nemotron3_preserve_thinking")

_TABLE: dict[tuple[str, ...], tuple[str, ...]] = {
    _ROLE_COLON: (
        "meta-llama/Llama-3.2-1B",
        "meta-llama/Llama-3.2-3B",
        "meta-llama/Llama-3.1-8B",
        "meta-llama/Llama-3.1-70B",
        "meta-llama/Meta-Llama-3-8B",
        "Qwen/Qwen3-0.6B-Base",
        "Qwen/Qwen3-1.7B-Base",
        "Qwen/Qwen3-4B-Base",
        "Qwen/Qwen3-14B-Base",
        "Qwen/Qwen3-8B-Base",
        "Qwen/Qwen3-30B-A3B-Base",
        "Qwen/Qwen3.5-9B-Base",
        "Qwen/Qwen3.5-35B-A3B-Base",
        "deepseek-ai/DeepSeek-V3.1-Base",
    ),
    _LLAMA3: (
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Llama-3.1-70B-Instruct",
        "meta-llama/Llama-3.2-1B-Instruct",
        "meta-llama/Llama-3.2-3B-Instruct",
        "meta-llama/Llama-3.3-70B-Instruct",
    ),
    _QWEN3: (
        "Qwen/Qwen3-0.6B",
        "Qwen/Qwen3-1.7B",
        "Qwen/Qwen3-4B",
        "Qwen/Qwen3-8B",
        "Qwen/Qwen3-14B",
        "Qwen/Qwen3-32B",
        "Qwen/Qwen3-30B-A3B",
    ),
    _QWEN3_INSTRUCT: (
        "Qwen/Qwen3-4B-Instruct-2507",
        "Qwen/Qwen3-30B-A3B-Instruct-2507",
        "Qwen/Qwen3-235B-A22B-Instruct-2507",
    ),
    _QWEN3_VL_INSTRUCT: ("Qwen/Qwen3-VL-30B-A3B-Instruct", "Qwen/Qwen3-VL-235B-A22B-Instruct"),
    _QWEN3_5: (
        "Qwen/Qwen3.5-4B",
        "Qwen/Qwen3.5-9B",
        "Qwen/Qwen3.5-27B",
        "Qwen/Qwen3.5-35B-A3B",
        "Qwen/Qwen3.5-397B-A17B",
        "Qwen/Qwen3.6-27B",
        "Qwen/Qwen3.6-35B-A3B",
    ),
    _QWEN3_8: ("Qwen/Qwen3.8-27B",),
    _DEEPSEEK_V3: ("deepseek-ai/DeepSeek-V3.1",),
    _GPT_OSS: ("openai/gpt-oss-20b", "openai/gpt-oss-120b"),
    _NEMOTRON3: (
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
    ),
}

_BY_MODEL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {model.lower(): renderers for renderers, models in _TABLE.items() for model in models}
)


def recommended_renderers(model: str) -> tuple[str, ...]:
    """Renderers that belong to ``model``, the first one first; a ``:variant`` after the name is ignored.

    Raises:
        ConfigError: the model is not in the table; says the nearest name.
    """
    key = model.split(":", 1)[0].lower()
    found = _BY_MODEL.get(key)
    if found is None:
        spelled = {name.lower(): name for names in _TABLE.values() for name in names}
        near = nearest(key, spelled)
        hint = f"did you mean {spelled[near]!r}? otherwise " if near else ""
        raise ConfigError(
            what=f"no renderer is known for the model {model!r}",
            where="renderer",
            remedy=f"{hint}name the renderer yourself ('chat_template' if its tokenizer has one, else 'role_colon')",
        )
    return found


def recommended_renderer(model: str) -> str:
    """The first of ``recommended_renderers``.

    Raises:
        ConfigError: the model is not in the table.
    """
    return recommended_renderers(model)[0]
