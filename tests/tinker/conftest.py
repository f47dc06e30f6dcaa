"""A server over the local torch engine on a real port, which notes what it is asked."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "packages/crucible_train/tests/golden/tokenizers/mini"
SILENT = re.compile(r"/api/v1/(retrieve_futures?|session_heartbeat|telemetry|cancel_future)$")


class Noted:
    """An application that keeps what it is asked, in the order of arrival, and passes it on."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.asked: list[tuple[str, str, bytes]] = []

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http" or SILENT.search(scope["path"]):
            await self.app(scope, receive, send)
            return
        pieces = []
        while True:
            message = await receive()
            pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        body = b"".join(pieces)
        self.asked.append((scope["method"], scope["path"].removeprefix("/api/v1/"), body))
        given = False

        async def again() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)


class Live:
    """A server in a thread of this process; ``wrap`` may put something between it and its engine."""

    def __init__(self, settings: Any, wrap: Callable[[Any], Any] = lambda backend: backend) -> None:
        import uvicorn

        from crucible_gateway.tinker.app import tinker_app
        from crucible_torch import LocalBackend

        self.backend = wrap(LocalBackend(device="cpu", dtype="float32", logprobs_at="all"))
        self.noted = Noted(tinker_app(self.backend, settings))
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self.noted, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[self._socket])), daemon=True
        )

    def __enter__(self) -> Live:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.02)
            assert self._thread.is_alive(), "the server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        self._socket.close()


def write_model(folder: Path, *, seed: int) -> Path:
    """A random Llama of 512 ids with the tokenizer that the recorded values were made with."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(MINI, folder)
    sizes = {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 2048,
    }
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = AutoConfig.for_model("llama", **sizes, **ends)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student and a teacher."""
    folder = tmp_path_factory.mktemp("models")
    return {name: write_model(folder / name, seed=seed) for seed, name in enumerate(["student", "teacher"])}


@pytest.fixture
def live(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Live]:
    """A server of both models, which the SDK finds by itself; a parameter is the key it asks for."""
    from crucible_gateway.tinker.served import served_model
    from crucible_gateway.tinker.settings import TinkerSettings

    served = tuple(served_model(str(path), local=True) for path in models.values())
    key = getattr(request, "param", None)
    with Live(TinkerSettings(models=served, state=tmp_path / "state", api_key=key)) as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.url)
        monkeypatch.setenv("TINKER_API_KEY", key or "tml-local-tests")
        monkeypatch.setenv("TINKER_TELEMETRY", "0")
        monkeypatch.delenv("TINKER_PROJECT_ID", raising=False)
        yield server


@pytest.fixture(scope="session")
def traces() -> dict[str, Any]:
    """What the recorded runs of upstream's loops asked of a server."""
    path = Path(__file__).parent / "recipe_traces.json"
    return json.loads(path.read_text(encoding="utf-8"))
