"""The local engine keeps the contracts of its ports, with adapters and in full fine-tuning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from crucible_testing.contracts.completer import CompleterContract
from crucible_testing.contracts.sampling import SamplingClientContract
from crucible_testing.contracts.tokenizer import TokenizerContract
from crucible_testing.contracts.training import TrainingBackendContract, TrainingClientContract
from crucible_torch import LocalBackend
from crucible_train.ports import Completer, SamplingClient, Tokenizer, TrainingSpec
from crucible_train.rendered_completer import RenderedCompleter
from crucible_train.renderers import get_renderer


class LocalEngine:
    """Gives the suites an engine."""

    @pytest.fixture
    def backend(self, make_backend: Callable[..., LocalBackend]) -> LocalBackend:
        return make_backend()


class TestLocalBackend(LocalEngine, TrainingBackendContract):
    @pytest.fixture
    def base_model(self, qwen3: Path) -> str:
        return str(qwen3)


class TestAdapter(LocalEngine, TrainingClientContract):
    @pytest.fixture
    def base_model(self, qwen3: Path) -> str:
        return str(qwen3)


class TestAdapterOfTransposedLayers(LocalEngine, TrainingClientContract):
    @pytest.fixture
    def base_model(self, gpt2: Path) -> str:
        return str(gpt2)


class TestFullFinetuning(LocalEngine, TrainingClientContract):
    @pytest.fixture
    def base_model(self, qwen3: Path) -> str:
        return str(qwen3)

    @pytest.fixture
    def spec(self, base_model: str, tmp_path: Path) -> TrainingSpec:
        return TrainingSpec(base_model=base_model, lora=None, seed=7, checkpoint_dir=tmp_path / "state")


class TestSampler(SamplingClientContract):
    agreement = 1e-5

    @pytest.fixture
    def sampler(self, backend: LocalBackend, qwen3: Path) -> SamplingClient:
        return asyncio.run(backend.create_sampling_client(str(qwen3)))


class TestSamplerOfTransposedLayers(SamplingClientContract):
    agreement = 1e-5

    @pytest.fixture
    def sampler(self, backend: LocalBackend, gpt2: Path) -> SamplingClient:
        return asyncio.run(backend.create_sampling_client(str(gpt2)))


class TestCompleter(CompleterContract):
    @pytest.fixture
    def completer(self, backend: LocalBackend, qwen3: Path) -> Completer:
        sampler = asyncio.run(backend.create_sampling_client(str(qwen3)))
        tokenizer = asyncio.run(backend.load_tokenizer(str(qwen3)))
        return RenderedCompleter(sampler, get_renderer("qwen3_instruct", tokenizer))


class TestFastTokenizer(TokenizerContract):
    @pytest.fixture
    def tokenizer(self, backend: LocalBackend, qwen3: Path) -> Tokenizer:
        return asyncio.run(backend.load_tokenizer(str(qwen3)))


@pytest.mark.real
class TestQwenTokenizer(TokenizerContract):
    @pytest.fixture
    def tokenizer(self, backend: LocalBackend, shared_data: Path) -> Tokenizer:
        return asyncio.run(backend.load_tokenizer(str(shared_data / "tokenizers" / "qwen3")))
