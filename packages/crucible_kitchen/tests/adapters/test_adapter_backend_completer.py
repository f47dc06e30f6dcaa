"""The completer over a manifest's training backend: opened once and late, and again after it could not be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import AdapterError, CheckpointRef, ConfigError, ConflictError, NotFoundError, ServiceError
from crucible_kitchen.adapters.backend_completer import BackendCompleter
from crucible_kitchen.manifests.manifest import AdapterChoice, Manifest
from crucible_kitchen.manifests.ports import ManifestPorts
from crucible_testing.backend import BigramBackend, write_bigram_model
from crucible_testing.bench import BIGRAM, plant_bigram
from crucible_testing.contracts.completer import FREE, TALK, CompleterContract
from crucible_train.ports import Completer, TrainingSpec


def completer_of(backend: BigramBackend, folder: Path, **options: Any) -> BackendCompleter:
    model = str(write_bigram_model(folder / "model"))
    return BackendCompleter(
        **{"model": model, "training_backend": backend, "renderer": "role_colon", **options}
    )


class TestBackendCompleter(CompleterContract):
    @pytest.fixture
    def completer(self, tmp_path: Path) -> Iterator[Completer]:
        completer = completer_of(BigramBackend(), tmp_path)
        yield completer
        asyncio.run(completer.close())


class Late(BigramBackend):
    """Cannot be reached at first."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    async def create_sampling_client(self, base_model: str, weights: CheckpointRef | None = None) -> Any:
        self.opened += 1
        if self.opened == 1:
            raise ServiceError(what="not yet", where="backend", retryable=True)
        return await super().create_sampling_client(base_model, weights)


def test_the_model_is_opened_once_by_the_first_conversation_and_anew_after_it_failed(tmp_path: Path) -> None:
    backend = Late()
    completer = completer_of(backend, tmp_path)
    assert backend.opened == 0
    with pytest.raises(ServiceError, match="not yet"):
        completer.complete(TALK, FREE).result()
    handles = [completer.complete(TALK, FREE) for _ in range(3)]
    assert len({handle.result().completions[0].text for handle in handles}) == 1
    assert backend.opened == 2
    asyncio.run(completer.close())


def test_a_completer_that_never_opened_closes(tmp_path: Path) -> None:
    asyncio.run(completer_of(BigramBackend(), tmp_path).close())
    failed = completer_of(BigramBackend(), tmp_path, model=str(tmp_path / "nothing"))
    handle = failed.complete(TALK, FREE)
    asyncio.run(failed.close())
    with pytest.raises(NotFoundError, match="nothing"):
        handle.result()


def test_saved_weights_answer_in_place_of_the_base_models(tmp_path: Path) -> None:
    async def trained() -> CheckpointRef:
        backend = BigramBackend()
        model = str(write_bigram_model(tmp_path / "model", seed=5))
        spec = TrainingSpec(base_model=model, lora=None, seed=0, checkpoint_dir=tmp_path / "state")
        return await (await backend.create_training_client(spec)).save_weights_for_sampler("other")

    weights = asyncio.run(trained()).path
    texts = [
        completer_of(BigramBackend(), tmp_path, weights=chosen).complete(TALK, FREE).result()
        for chosen in (None, weights)
    ]
    assert texts[0] != texts[1]


def test_a_renderer_that_is_unknown_is_refused_when_the_adapter_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'qwen3'"):
        completer_of(BigramBackend(), tmp_path, renderer="qwen")
    with pytest.raises(ConfigError, match="no renderer is known for the model"):
        completer_of(BigramBackend(), tmp_path, renderer=None)


def test_a_manifest_gives_it_the_training_backend_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "package")))
    model = str(write_bigram_model(tmp_path / "model"))
    chosen = {
        "completer": AdapterChoice(adapter="backend", options={"model": model, "renderer": "role_colon"}),
        "training_backend": AdapterChoice(adapter=BIGRAM),
    }
    ports = ManifestPorts(Manifest(profile="both", ports=chosen), home=tmp_path, environ={})
    completer = ports.get("completer")
    assert completer.complete(TALK, FREE).result().completions
    assert "submit sample 0" in ports.get("training_backend").journal
    ports.close()
    with pytest.raises(ConflictError):
        completer.complete(TALK, FREE)
    alone = Manifest(profile="alone", ports={"completer": chosen["completer"]})
    with pytest.raises(AdapterError, match="names no adapter for the port 'training_backend'"):
        ManifestPorts(alone, home=tmp_path, environ={}).get("completer")
