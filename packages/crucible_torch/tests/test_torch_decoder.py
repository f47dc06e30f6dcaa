"""Plain decoders computed here: the same bits as transformers' classes, or left to them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from crucible_torch.attention import PackedPlan
from crucible_torch.decoder import Decoder
from crucible_torch.decoder_shape import decoder_shape
from crucible_torch.location import locate
from crucible_torch.model import LoadedModel, load_model
from crucible_torch.packing import Run

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
WITHOUT_HEAD_DIM = {key: value for key, value in SIZES.items() if key != "head_dim"}
LLAMA31 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3 tied": ("qwen3", {**SIZES, "tie_word_embeddings": True}),
    "qwen3 with biases": ("qwen3", {**SIZES, "attention_bias": True}),
    "qwen2": ("qwen2", {**WITHOUT_HEAD_DIM, "tie_word_embeddings": True}),
    "llama with biases": ("llama", {**SIZES, "attention_bias": True, "mlp_bias": True}),
    "llama 3.1": ("llama", {**SIZES, "rope_parameters": LLAMA31}),
    "mistral with a window": ("mistral", {**SIZES, "sliding_window": 20}),
    "mistral without": ("mistral", {**WITHOUT_HEAD_DIM, "sliding_window": None}),
}


def load(folder: Path, dtype: torch.dtype = torch.float32, *, portable: bool = False) -> LoadedModel:
    files = locate(str(folder))
    return load_model(
        files, digest="", device=torch.device("cpu"), dtype=dtype, shared=False, portable=portable
    )


def computed(model: LoadedModel) -> dict[str, torch.Tensor]:
    """Logits of two packed sequences, and the gradient of every weight."""
    tokens = torch.randint(0, 320, (1, 60), generator=torch.Generator().manual_seed(3))
    positions = torch.cat([torch.arange(40), torch.arange(20)])[None]
    plan = PackedPlan((Run(start=0, count=1, length=40), Run(start=40, count=1, length=20)))
    logits = model.logits(model.hidden(tokens, positions, plan))
    logits.float().logsumexp(-1).sum().backward()
    return {"": logits} | {name: weight.grad for name, weight in model.module.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILY)
def test_a_decoder_gives_the_bits_of_transformers(
    model_writer: Callable[..., Path], tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    model_type, config = FAMILY[name]
    folder = model_writer(tmp_path / "model", model_type, **config)
    ours, theirs = load(folder, dtype), load(folder, dtype, portable=True)
    assert isinstance(ours.module, Decoder)
    assert not isinstance(theirs.module, Decoder)
    assert list(ours.module.state_dict()) == list(theirs.module.state_dict())
    assert (ours.vocab_size, ours.eos_ids) == (theirs.vocab_size, theirs.eos_ids)
    found, wanted = computed(ours), computed(theirs)
    assert list(found) == list(wanted)
    assert torch.equal(found[""], wanted[""])
    theirs.module.float().zero_grad()
    exact = computed(theirs)
    for key, tensor in exact.items():
        if dtype == torch.float32:
            torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5)
        else:  # rounded elsewhere, but no more than by transformers
            off, their_off = ((grads[key].float() - tensor).norm() for grads in (found, wanted))
            assert off <= 1.25 * their_off + 1e-3 * tensor.norm(), key


VARIANTS: dict[str, Mapping[str, Any]] = {
    "another type": {"model_type": "gemma"},
    "another activation": {"hidden_act": "gelu"},
    "another rotary scaling": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
    "a rotary base of nobody": {"rope_parameters": None, "rope_theta": None},
    "an unknown part of rotary positions": {
        "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}
    },
    "a window in some layers": {"layer_types": ["full_attention", "sliding_attention"]},
    "quantised weights": {"quantization_config": {"quant_method": "fp8"}},
    "a width per head left open": {"head_dim": None},
    "a size left open": {"num_key_value_heads": None},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_not_plain_is_left_to_transformers(qwen3: Path, name: str) -> None:
    config = json.loads((qwen3 / "config.json").read_text())
    assert decoder_shape(config) is not None
    assert decoder_shape({**config, **VARIANTS[name]}) is None


def test_the_older_form_of_rotary_settings_means_the_same(qwen3: Path) -> None:
    config = json.loads((qwen3 / "config.json").read_text())
    rope = config.pop("rope_parameters")
    older = {**config, "rope_theta": rope["rope_theta"], "rope_scaling": None}
    assert decoder_shape(older) == decoder_shape({**config, "rope_parameters": rope})


def test_files_that_hold_other_tensors_are_left_to_transformers(untied: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(untied / "model.safetensors")
    (tmp_path / "config.json").write_text((untied / "config.json").read_text())
    save_file({**tensors, "extra.weight": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert not isinstance(load(tmp_path).module, Decoder)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert isinstance(load(tmp_path).module, Decoder)


def test_the_generation_settings_say_where_an_answer_ends(untied: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((untied / name).read_bytes())
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert load(tmp_path).eos_ids == load(tmp_path, portable=True).eos_ids == {7, 9}


FIRST_STEP = """
import asyncio, pathlib, sys
from crucible_torch import LocalBackend
from crucible_train.ports import TrainingSpec
from crucible_train.types import AdamParams, Datum, LoraConfig, ModelInput, TensorData

async def step(folder, checkpoints):
    backend = LocalBackend(device="cpu", local_files_only=True)
    spec = TrainingSpec(base_model=folder, lora=LoraConfig(rank=2), seed=0, checkpoint_dir=pathlib.Path(checkpoints))
    client = await backend.create_training_client(spec)
    (await backend.load_tokenizer(folder)).encode("a cat")
    inputs = {"target_tokens": TensorData.of([4, 5, 6]), "weights": TensorData.of([1.0, 1.0, 1.0])}
    datum = Datum(model_input=ModelInput.from_ints([3, 4, 5]), loss_fn_inputs=inputs)
    client.forward_backward([datum], "cross_entropy").result()
    client.optim_step(AdamParams(learning_rate=1e-3)).result()
    await backend.close()

asyncio.run(step(*sys.argv[1:]))
heavy = {"transformers", "sympy", "scipy", "torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp"}
print(sorted(heavy & set(sys.modules)))
"""


def test_the_first_step_imports_torch_and_little_else(qwen3: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FIRST_STEP, str(qwen3), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
