"""Exported weights load in plain transformers and in peft, with equal logits."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from crucible_ir import ConfigError, ConflictError, IntegrityError
from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend
from crucible_train.ports import TrainingSpec
from crucible_train.types import AdamParams, LoraConfig

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
TOKENS = [3, 9, 27, 81, 243, 5, 25, 7, 49]


def trained(backend: LocalBackend, model: Path, folder: Path, lora: LoraConfig | None) -> Any:
    spec = TrainingSpec(base_model=str(model), lora=lora, seed=1, checkpoint_dir=folder)
    client = asyncio.run(backend.create_training_client(spec))
    for _ in range(3):
        client.forward_backward([make_datum(TOKENS)])
        client.optim_step(AdamParams(learning_rate=1e-2)).result()
    return client


def our_logprobs(client: Any) -> torch.Tensor:
    out = client.forward([make_datum(TOKENS)]).result()
    return torch.from_numpy(out.logprobs[0].copy())


def their_logprobs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = model.eval()(input_ids=torch.tensor([TOKENS[:-1]])).logits[0].float()
    return scores.log_softmax(-1).gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0]


def plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")


LORAS = {
    "all": LoraConfig(rank=4),
    "body": LoraConfig(rank=4, train_unembed=False),
    "head": LoraConfig(rank=4, train_attn=False, train_mlp=False),
}


@pytest.mark.parametrize("lora", LORAS.values(), ids=LORAS.keys())
@pytest.mark.parametrize("kind", ["qwen3", "untied", "gpt2"])
def test_an_adapter_loads_in_peft_and_merged_in_transformers(
    kind: str, lora: LoraConfig, backend: LocalBackend, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from peft import PeftModel

    base = request.getfixturevalue(kind)
    client = trained(backend, base, tmp_path / "state", lora)
    ref = client.save_weights_for_sampler("w").result()
    expected = our_logprobs(client)
    adapter = backend.export(ref, tmp_path / "adapter", merge=False)
    merged = backend.export(ref, tmp_path / "merged", merge=True)
    torch.testing.assert_close(their_logprobs(plain(merged)), expected, atol=1e-5, rtol=1e-5)
    wrapped = PeftModel.from_pretrained(plain(base), adapter)
    torch.testing.assert_close(their_logprobs(wrapped), expected, atol=1e-5, rtol=1e-5)
    assert (merged / "tokenizer.json").is_file()
    assert not {path.suffix for path in merged.iterdir()} & {".bin", ".pt", ".py"}


def test_an_adapter_on_a_tied_head_leaves_the_embedding_as_it_was(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    client = trained(backend, qwen3, tmp_path / "state", LORAS["head"])
    ref = client.save_state("s").result()
    merged = plain(backend.export(ref, tmp_path / "merged", merge=True))
    base = plain(qwen3)
    assert torch.equal(merged.get_input_embeddings().weight, base.get_input_embeddings().weight)
    assert not torch.equal(merged.lm_head.weight, merged.get_input_embeddings().weight)
    assert merged.config.tie_word_embeddings is False


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_full_weights_load_in_transformers(
    kind: str, backend: LocalBackend, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    client = trained(backend, request.getfixturevalue(kind), tmp_path / "state", None)
    ref = client.save_weights_for_sampler("w").result()
    merged = plain(backend.export(ref, tmp_path / "merged", merge=True))
    torch.testing.assert_close(their_logprobs(merged), our_logprobs(client), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="merge=True"):
        backend.export(ref, tmp_path / "adapter", merge=False)


def test_a_merged_export_can_be_trained_again(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    client = trained(backend, qwen3, tmp_path / "state", LORAS["all"])
    expected = our_logprobs(client)
    merged = backend.export(client.save_state("s").result(), tmp_path / "merged", merge=True)
    again = TrainingSpec(
        base_model=str(merged), lora=LoraConfig(rank=2), seed=0, checkpoint_dir=tmp_path / "again"
    )
    backend.check(again)
    second = asyncio.run(backend.create_training_client(again))
    torch.testing.assert_close(our_logprobs(second), expected, atol=1e-5, rtol=1e-5)


def test_an_export_never_overwrites(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    ref = trained(backend, qwen3, tmp_path / "state", LORAS["all"]).save_state("s").result()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(ConflictError, match="full"):
        backend.export(ref, tmp_path / "full", merge=False)
    (tmp_path / "empty").mkdir()
    assert backend.export(ref, tmp_path / "empty", merge=False) == tmp_path / "empty"


def test_a_damaged_checkpoint_is_not_exported(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    ref = trained(backend, qwen3, tmp_path / "state", LORAS["all"]).save_state("s").result()
    path = Path(ref.path) / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(IntegrityError, match=r"adapter\.safetensors"):
        backend.export(ref, tmp_path / "out", merge=False)
    assert not (tmp_path / "out").exists()


def test_the_adapter_config_says_what_peft_needs(backend: LocalBackend, gpt2: Path, tmp_path: Path) -> None:
    ref = trained(backend, gpt2, tmp_path / "state", LoraConfig(rank=4, alpha=6)).save_state("s").result()
    folder = backend.export(ref, tmp_path / "adapter", merge=False)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (4, 6, True)
    assert "transformer.h.0.attn.c_attn" in config["target_modules"]


@pytest.mark.real
def test_a_real_model_exports(backend: LocalBackend, shared_data: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    base = shared_data / "models" / "stories260K"
    client = trained(backend, base, tmp_path / "state", LoraConfig(rank=8))
    ref = client.save_state("s").result()
    expected = our_logprobs(client)
    merged = backend.export(ref, tmp_path / "merged", merge=True)
    adapter = backend.export(ref, tmp_path / "adapter", merge=False)
    torch.testing.assert_close(their_logprobs(plain(merged)), expected, atol=1e-5, rtol=1e-5)
    wrapped = PeftModel.from_pretrained(plain(base), adapter)
    torch.testing.assert_close(their_logprobs(wrapped), expected, atol=1e-5, rtol=1e-5)
