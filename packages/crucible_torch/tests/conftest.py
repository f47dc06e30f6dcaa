"""Tiny models with random weights and a byte-level tokenizer, made once per session; engines that are closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_torch import LocalBackend

QWEN3: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
GPT2: dict[str, Any] = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(["the cat sat on the mat and the dog ran"] * 50, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.save_pretrained(folder)


def write_model(folder: Path, model_type: str, **config: Any) -> Path:
    """A model of that type with weights drawn from one generator."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    ends = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**ends, **config}))
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
            elif "bias" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def model_writer() -> Callable[..., Path]:
    """``write_model``: makes a model of any type and sizes in a folder."""
    return write_model


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 whose output layer is tied to its embedding."""
    return write_model(tmp_path_factory.mktemp("qwen3"), "qwen3", **QWEN3, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with an output layer of its own."""
    return write_model(tmp_path_factory.mktemp("llama"), "llama", **QWEN3, tie_word_embeddings=False)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2, whose layers are transposed."""
    return write_model(tmp_path_factory.mktemp("gpt2"), "gpt2", **GPT2)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of 512 positions: tied output layer, transposed layers with biases, sliding window."""
    folder = tmp_path_factory.mktemp("long")
    wide = {**QWEN3, "max_position_embeddings": 512}
    return {
        "qwen3": write_model(folder / "qwen3", "qwen3", **wide, tie_word_embeddings=True),
        "gpt2": write_model(folder / "gpt2", "gpt2", **{**GPT2, "n_positions": 512}),
        "mistral": write_model(folder / "mistral", "mistral", **wide, sliding_window=20),
    }


@pytest.fixture
def make_backend() -> Iterator[Callable[..., LocalBackend]]:
    """Makes engines on the CPU and closes them after the test."""
    made: list[LocalBackend] = []

    def make(**options: Any) -> LocalBackend:
        made.append(LocalBackend(**{"device": "cpu", "num_threads": 1, "local_files_only": True, **options}))
        return made[-1]

    yield make
    for backend in made:
        asyncio.run(backend.close())


@pytest.fixture
def backend(make_backend: Callable[..., LocalBackend]) -> LocalBackend:
    """An engine with default settings."""
    return make_backend()
