"""An ASGI application that runs in a thread of this process and is asked without a socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

__all__ = ["Answer", "RunningApp"]

App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class RunningApp:
    """Starts the application with the ``with`` block and ends it with it; ``crash`` leaves it where it is."""

    def __init__(self, app: App, *, headers: Mapping[str, str] | None = None) -> None:
        self._app = app
        self._headers = {"host": "127.0.0.1:8040", **(headers or {})}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._life: Future[Any] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._life = self.later(self._app(scope, self._events.get, self._told.put))
        self._lifespan("startup")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the application as a server does; stopping twice is harmless."""
        if self._loop.is_closed():
            return
        try:
            self._lifespan("shutdown")
        finally:
            self._stop()

    def crash(self) -> None:
        """End the loop at once: nothing is finished, written or closed."""
        self._stop()

    def later(self, work: Any) -> Future[Any]:
        """Run a coroutine in the application's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> Answer:
        """Send a request and wait for the whole answer; ``body`` is bytes, or else goes as JSON."""
        return self.asking(method, path, body, headers=headers).result(timeout_s)

    def asking(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Future[Answer]:
        """As ``ask``, without waiting."""
        sent = {**self._headers, **(headers or {})}
        if not isinstance(body, bytes):
            sent.setdefault("content-type", "application/json")
            body = b"" if body is None else json.dumps(body).encode()
        return self.later(self._exchange(method, path, body, sent))

    async def _exchange(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        parts = urlsplit(path)
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(parts.path),
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8040),
        }
        pieces = [body[start : start + 65536] for start in range(0, len(body), 65536)] or [b""]
        got: list[Any] = []
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not pieces:
                await gone.wait()
                return {"type": "http.disconnect"}
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            got.append(message)

        await self._app(scope, receive, send)
        gone.set()
        start = next(message for message in got if message["type"] == "http.response.start")
        return Answer(
            status=start["status"],
            headers={name.decode().lower(): value.decode() for name, value in start["headers"]},
            body=b"".join(m.get("body", b"") for m in got if m["type"] == "http.response.body"),
        )

    def _lifespan(self, what: str) -> None:
        self.later(self._events.put({"type": f"lifespan.{what}"})).result(60)
        told = self.later(self._told.get()).result(60)
        if told["type"] != f"lifespan.{what}.complete":
            raise RuntimeError(told.get("message", told["type"]))

    def _stop(self) -> None:
        async def cancel_all() -> None:
            mine = asyncio.current_task()
            tasks = [task for task in asyncio.all_tasks() if task is not mine]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.later(cancel_all()).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
