"""Facts about published models: hidden size and how many parameters a LoRA of rank 1 adds to each part.

Expert layers share the adapter factor that faces the hidden dimension; the counts reflect that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from crucible_ir.errors import ConfigError, nearest

__all__ = ["MODEL_FACTS", "ModelFacts", "model_facts"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """``hidden_size``, and parameters per rank in the MLP, attention and unembedding layers."""

    hidden_size: int
    mlp: int
    attn: int
    unembed: int


_FACTS: dict[str, ModelFacts] = {
    "deepseek-ai/DeepSeek-V3.1": ModelFacts(7168, 94_307_328, 2_440_000, 136_448),
    "deepseek-ai/DeepSeek-V3.1-Base": ModelFacts(7168, 94_307_328, 2_440_000, 136_448),
    "deepseek-ai/DeepSeek-V4.1-Flash": ModelFacts(5120, 107_673_600, 1_013_760, 134_400),
    "deepseek-ai/DeepSeek-V4.1-Flash-1017": ModelFacts(5120, 107_673_600, 1_013_760, 134_400),
    "meta-llama/Llama-3.1-70B": ModelFacts(8192, 8_847_360, 4_096_000, 136_448),
    "meta-llama/Llama-3.1-8B": ModelFacts(4096, 1_769_472, 851_968, 132_352),
    "meta-llama/Llama-3.1-8B-Instruct": ModelFacts(4096, 1_769_472, 851_968, 132_352),
    "meta-llama/Llama-3.2-1B": ModelFacts(2048, 491_520, 212_992, 130_304),
    "meta-llama/Llama-3.2-3B": ModelFacts(3072, 946_176, 573_440, 131_328),
    "meta-llama/Llama-3.3-70B-Instruct": ModelFacts(8192, 8_847_360, 4_096_000, 136_448),
    "moonshotai/Kimi-K2-Thinking": ModelFacts(7168, 144_583_680, 1_940_288, 171_008),
    "moonshotai/Kimi-K2.5": ModelFacts(7168, 144_583_680, 1_940_288, 171_008),
    "moonshotai/Kimi-K2.6": ModelFacts(7168, 144_583_680, 1_940_288, 171_008),
    "moonshotai/Kimi-K3.1-Pro": ModelFacts(7168, 766_457_856, 8_040_960, 171_008),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ModelFacts(2688, 11_346_176, 584_832, 133_760),
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16": ModelFacts(4096, 111_349_760, 1_675_264, 135_168),
    "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16": ModelFacts(8192, 254_529_536, 4_134_912, 139_264),
    "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16": ModelFacts(2688, 11_346_176, 584_832, 133_760),
    "nvidia/NVIDIA-Nemotron-3.5-Super-VL-120B-A12B-BF16": ModelFacts(4096, 111_349_760, 1_675_264, 135_168),
    "openai/gpt-oss-120b": ModelFacts(2880, 40_124_160, 746_496, 203_968),
    "openai/gpt-oss-20b": ModelFacts(2880, 6_842_880, 497_664, 203_968),
    "Qwen/Qwen3-235B-A22B-Instruct-2507": ModelFacts(4096, 56_598_528, 3_176_448, 156_032),
    "Qwen/Qwen3-30B-A3B": ModelFacts(2048, 14_450_688, 835_584, 153_984),
    "Qwen/Qwen3-30B-A3B-Base": ModelFacts(2048, 14_450_688, 835_584, 153_984),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": ModelFacts(2048, 14_450_688, 835_584, 153_984),
    "Qwen/Qwen3-32B": ModelFacts(5120, 5_898_240, 2_490_368, 157_056),
    "Qwen/Qwen3-4B-Instruct-2507": ModelFacts(2560, 1_327_104, 737_280, 154_496),
    "Qwen/Qwen3-8B": ModelFacts(4096, 1_769_472, 958_464, 156_032),
    "Qwen/Qwen3-8B-Base": ModelFacts(4096, 1_769_472, 958_464, 156_032),
    "Qwen/Qwen3-VL-235B-A22B-Instruct": ModelFacts(4096, 56_598_528, 3_176_448, 156_032),
    "Qwen/Qwen3-VL-30B-A3B-Instruct": ModelFacts(2048, 14_450_688, 835_584, 153_984),
    "Qwen/Qwen3.5-27B": ModelFacts(5120, 4_325_376, 2_965_504, 253_440),
    "Qwen/Qwen3.5-35B-A3B": ModelFacts(2048, 16_281_600, 1_013_760, 250_368),
    "Qwen/Qwen3.5-35B-A3B-Base": ModelFacts(2048, 16_281_600, 1_013_760, 250_368),
    "Qwen/Qwen3.5-397B-A17B": ModelFacts(4096, 96_030_720, 2_841_600, 252_416),
    "Qwen/Qwen3.5-4B": ModelFacts(2560, 1_130_496, 897_024, 250_880),
    "Qwen/Qwen3.5-9B": ModelFacts(4096, 1_572_864, 1_130_496, 252_416),
    "Qwen/Qwen3.5-9B-Base": ModelFacts(4096, 1_572_864, 1_130_496, 252_416),
    "Qwen/Qwen3.6-27B": ModelFacts(5120, 4_325_376, 2_965_504, 253_440),
    "Qwen/Qwen3.6-35B-A3B": ModelFacts(2048, 16_281_600, 1_013_760, 250_368),
    "Qwen/Qwen3.8-27B": ModelFacts(5120, 4_325_376, 2_965_504, 253_440),
    "thinkingmachines/Inkling": ModelFacts(6144, 154_705_920, 3_424_256, 207_168),
    "thinkingmachines/Inkling-2-Small": ModelFacts(4608, 128_065_536, 2_347_008, 205_632),
    "thinkingmachines/Inkling-Small": ModelFacts(4096, 64_503_808, 1_311_744, 205_120),
    "zai-org/GLM-5.3": ModelFacts(6144, 121_356_288, 2_920_320, 161_024),
    "zai-org/GLM-5.3-Flash": ModelFacts(4096, 75_755_520, 2_009_088, 158_976),
}

MODEL_FACTS: Mapping[str, ModelFacts] = MappingProxyType(_FACTS)
"""Facts by the model's full name."""

_BY_KEY = {name.lower(): facts for name, facts in _FACTS.items()}


def model_facts(model: str) -> ModelFacts:
    """Facts about ``model``, found without case and without a ``:variant`` after the name.

    Raises:
        ConfigError: the model is not in the table; says the nearest name.
    """
    key = model.split(":", 1)[0].lower()
    found = _BY_KEY.get(key)
    if found is None:
        near = nearest(key, _BY_KEY)
        name = next((name for name in _FACTS if name.lower() == near), None)
        raise ConfigError(
            what=f"nothing is known about the model {model!r}",
            where="model",
            remedy=f"did you mean {name!r}?"
            if name
            else "give the hidden size or the learning rate yourself",
        )
    return found
