"""A Tinker-compatible server over the bigram backend, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crucible_gateway.tinker.settings import Limits, ServedModel, TinkerSettings
from crucible_testing.backend import BigramBackend, write_bigram_model
from crucible_testing.gateway import MODEL, Tinker

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Tinker]]:
    """Starts servers; those that still run end with the test."""
    folder = write_bigram_model(tmp_path / "model")
    served = ServedModel(name=MODEL, source=str(folder), tokenizer_id=str(folder), max_length=64)
    with ExitStack() as running:

        def begin(
            *,
            backend: BigramBackend | None = None,
            state: Path | None = None,
            limits: dict[str, Any] | None = None,
            options: dict[str, Any] | None = None,
            **settings: Any,
        ) -> Tinker:
            chosen = TinkerSettings(
                models=(served,),
                state=state or tmp_path / "state",
                limits=replace(Limits(snapshot_rest=0), **(limits or {})),
                **settings,
            )
            return running.enter_context(Tinker(backend or BigramBackend(), chosen, **(options or {})))

        yield begin


@pytest.fixture
def tinker(start: Callable[..., Tinker]) -> Tinker:
    """A server with usual settings."""
    return start()


@pytest.fixture(scope="session")
def recorded() -> dict[str, Any]:
    """What the real SDK 0.38.0 sent, and answers that it reads."""
    return json.loads((GOLDEN / "sdk_wire.json").read_text(encoding="utf-8"))
