"""The Tinker adapter keeps the promises of its ports, through the real SDK and a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.adapters.tinker_backend import TinkerBackend
from crucible_kitchen.adapters.tinker_completer import TinkerCompleter
from crucible_testing.contracts.completer import CompleterContract
from crucible_testing.contracts.sampling import SamplingClientContract
from crucible_testing.contracts.tokenizer import TokenizerContract
from crucible_testing.contracts.training import TrainingBackendContract, TrainingClientContract
from crucible_testing.gateway import MODEL
from crucible_train.ports import Completer, SamplingClient, Tokenizer, TrainingBackend, TrainingSpec
from crucible_train.types import LoraConfig

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the SDK's own


class _Tinker:
    @pytest.fixture
    def backend(self, served: Any, connect: Callable) -> TinkerBackend:
        return connect(served)

    @pytest.fixture
    def base_model(self) -> str:
        return MODEL

    @pytest.fixture
    def spec(self, base_model: str, tmp_path: Path) -> TrainingSpec:
        """The service has one alpha for all."""
        return TrainingSpec(
            base_model=base_model, lora=LoraConfig(rank=4), seed=7, checkpoint_dir=tmp_path / "state"
        )


class TestTinkerBackend(_Tinker, TrainingBackendContract):
    pass


class TestTinkerTraining(_Tinker, TrainingClientContract):
    pass


class TestTinkerSampler(_Tinker, SamplingClientContract):
    @pytest.fixture
    def sampler(self, backend: TrainingBackend, base_model: str) -> Iterator[SamplingClient]:
        client = asyncio.run(backend.create_sampling_client(base_model))
        yield client
        asyncio.run(client.close())


class TestTinkerCompleter(CompleterContract):
    @pytest.fixture
    def completer(self, served: Any) -> Iterator[Completer]:
        service = {"api_key": served.settings.api_key, "base_url": served.url, "local_files_only": True}
        completer = TinkerCompleter(model=MODEL, renderer="role_colon", **service)
        yield completer
        asyncio.run(completer.close())


class TestServedTokenizer(_Tinker, TokenizerContract):
    @pytest.fixture
    def tokenizer(self, backend: TrainingBackend, base_model: str) -> Tokenizer:
        return asyncio.run(backend.load_tokenizer(base_model))
