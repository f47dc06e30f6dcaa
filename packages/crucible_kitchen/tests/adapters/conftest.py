"""A Tinker-compatible server on a loopback port, and backends that talk to it through the real SDK."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import uvicorn

import crucible_tiny
from crucible_gateway.tinker.app import tinker_app
from crucible_gateway.tinker.settings import ServedModel, TinkerSettings
from crucible_kitchen.adapters.tinker_backend import TinkerBackend
from crucible_testing.backend import BigramBackend, write_bigram_model
from crucible_testing.faulty_http import FaultyHttp
from crucible_testing.gateway import MODEL

KEY = "tml-a-key-for-tests"


class Served:
    """A server in a thread of this process."""

    def __init__(self, backend: Any, settings: TinkerSettings) -> None:
        self.backend, self.settings = backend, settings
        self.http = FaultyHttp(tinker_app(backend, settings))
        config = uvicorn.Config(
            self.http,  # type: ignore[arg-type]
            host="127.0.0.1",
            port=0,
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._started.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(60)

    @property
    def url(self) -> str:
        """Where it listens."""
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def _run(self) -> None:
        startup = self._server.startup

        async def announced(sockets: Any = None) -> None:
            await startup(sockets)
            self._started.set()

        self._server.startup = announced  # type: ignore[method-assign]
        asyncio.run(self._server.serve())


@pytest.fixture(scope="module")
def serve_anywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Starts servers over the bigram backend; they end with the module."""
    folder = tmp_path_factory.mktemp("tinker")
    source = str(write_bigram_model(folder / "model"))
    tokenizer = str(crucible_tiny.model_path())
    model = ServedModel(name=MODEL, source=source, tokenizer_id=tokenizer, max_length=64)
    with ExitStack() as running:

        def begin(backend: BigramBackend | None = None, **settings: Any) -> Served:
            state = tmp_path_factory.mktemp("server")
            chosen = TinkerSettings(models=(model,), state=state, api_key=KEY, **settings)
            return running.enter_context(Served(backend or BigramBackend(), chosen))

        yield begin
    gc.collect()  # the SDK forgets a connection whenever it opens a session; its warnings belong to this module


@pytest.fixture(scope="module")
def served(serve_anywhere: Callable[..., Served]) -> Served:
    """One server for a module's tests."""
    return serve_anywhere()


@pytest.fixture
def connect() -> Iterator[Callable[..., TinkerBackend]]:
    """Makes backends for a server; they are closed before it ends."""
    made: list[TinkerBackend] = []

    def begin(server: Served, **options: Any) -> TinkerBackend:
        given = {"api_key": KEY, "base_url": server.url, "local_files_only": True, **options}
        made.append(TinkerBackend(**given))
        return made[-1]

    yield begin
    for backend in made:
        asyncio.run(backend.close())
