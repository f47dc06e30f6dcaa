"""What "auto" is on a CPU: measured where it may matter, and the same again for the same run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend, precision
from crucible_train.ports import TrainingSpec
from crucible_train.types import AdamParams, LoraConfig

WIDE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, model_writer: Callable[..., Path]) -> Path:
    """A model wide enough to be measured."""
    return model_writer(tmp_path_factory.mktemp("wide"), "qwen3", **WIDE)


@pytest.fixture
def gain(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets a machine gain so much by bfloat16."""

    def be(factor: float) -> None:
        monkeypatch.setattr(precision, "measured_gain", lambda width: factor)

    return be


def client_of(
    engine: LocalBackend, model: Path, folder: Path, *, full: bool = False, dtype: str = "auto"
) -> Any:
    lora = None if full else LoraConfig(rank=4)
    spec = TrainingSpec(base_model=str(model), lora=lora, seed=5, checkpoint_dir=folder, dtype=dtype)  # type: ignore[arg-type]
    return asyncio.run(engine.create_training_client(spec))


def dtype_of(client: Any) -> torch.dtype:
    found: torch.dtype = client._trainer.model.dtype
    return found


def step(client: Any) -> float:
    data = [make_datum([3, 9, 4, 8, 5, 7]), make_datum([8, 2, 9, 1])]
    loss: float = client.forward_backward(data).result().metrics["loss:sum"]
    client.optim_step(AdamParams(learning_rate=2e-3)).result()
    return loss


def test_auto_is_bfloat16_where_the_machine_gains_and_float32_where_not(
    make_backend: Callable[..., LocalBackend], wide: Path, gain: Callable[[float], None], tmp_path: Path
) -> None:
    for factor, dtype in ((1.4, torch.float32), (1.6, torch.bfloat16)):
        gain(factor)
        assert dtype_of(client_of(make_backend(), wide, tmp_path / str(factor))) == dtype


def test_a_narrow_model_is_float32_without_measuring(
    make_backend: Callable[..., LocalBackend], qwen3: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measured(width: int) -> float:
        raise AssertionError("measured")

    monkeypatch.setattr(precision, "measured_gain", measured)
    assert dtype_of(client_of(make_backend(), qwen3, tmp_path)) == torch.float32
    assert not (tmp_path / "engine.json").exists()


def test_what_is_named_goes_before_what_is_measured(
    make_backend: Callable[..., LocalBackend], wide: Path, gain: Callable[[float], None], tmp_path: Path
) -> None:
    gain(9.0)
    assert dtype_of(client_of(make_backend(dtype="float32"), wide, tmp_path)) == torch.float32
    assert dtype_of(client_of(make_backend(), wide, tmp_path, dtype="float32")) == torch.float32
    assert not (tmp_path / "engine.json").exists()


@pytest.mark.parametrize("full", [False, True], ids=["adapter", "full"])
def test_a_run_goes_on_in_the_dtype_it_began_with_bit_for_bit(
    make_backend: Callable[..., LocalBackend],
    wide: Path,
    gain: Callable[[float], None],
    tmp_path: Path,
    full: bool,
) -> None:
    gain(2.0)
    first = client_of(make_backend(), wide, tmp_path, full=full)
    step(first)
    ref = first.save_state("one").result()
    losses = [step(first) for _ in range(3)]
    assert json.loads((tmp_path / "engine.json").read_text()) == {"dtype": "bfloat16"}

    gain(0.5)  # another machine, or the same one in a bad moment
    again = client_of(make_backend(), wide, tmp_path, full=full)
    assert dtype_of(again) == torch.bfloat16
    again.load_state(ref).result()
    assert [step(again) for _ in range(3)] == losses


def test_a_damaged_note_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text("{")
    assert precision.remembered(tmp_path, lambda: "float32") == "float32"
    assert precision.remembered(tmp_path, lambda: "bfloat16") == "float32"


def test_a_base_sampler_takes_the_base_that_is_loaded(
    make_backend: Callable[..., LocalBackend], wide: Path, gain: Callable[[float], None], tmp_path: Path
) -> None:
    gain(2.0)
    engine = make_backend()
    client = client_of(engine, wide, tmp_path)
    gain(0.5)
    sampler: Any = asyncio.run(engine.create_sampling_client(str(wide)))
    assert sampler._open().inference.model is client._trainer.model


def test_the_measurement_is_a_ratio_of_times() -> None:
    assert 0.01 < precision.measured_gain(256) < 100
    assert precision.measured_gain(256) == precision.measured_gain(256)
