"""A layer before an HTTP application that answers in its place, or loses its answers, where a test asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Fault", "FaultyHttp"]

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class _Dropped(Exception):
    """Ends a request without an answer, so that the server hangs up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What becomes of one request.

    ``status`` None hangs up without an answer. ``after`` lets the application do the request first, so that its answer
    is lost; otherwise it never hears of it.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    after: bool = False


class FaultyHttp:
    """Hands requests to ``app`` but for the first ones to paths in ``faults``, each of which meets the next fault."""

    def __init__(self, app: _App) -> None:
        self._app = app
        self.faults: dict[str, list[Fault]] = {}
        """End of a path → what its next requests meet."""
        self.seen: Counter[str] = Counter()
        """Last part of a path → requests that came."""

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """One request, or the application's life."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = str(scope["path"])
        self.seen[path.rpartition("/")[2]] += 1
        waiting = next((faults for end, faults in self.faults.items() if faults and path.endswith(end)), None)
        if waiting is None:
            await self._app(scope, receive, send)
            return
        fault = waiting.pop(0)
        if fault.after:
            await self._app(scope, receive, _nowhere)
        if fault.status is None:
            raise _Dropped(path)
        headers = {"content-type": "application/json", **fault.headers}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": fault.status, "headers": encoded})
        await send({"type": "http.response.body", "body": fault.body})


async def _nowhere(message: MutableMapping[str, Any]) -> None:
    """Take a message and lose it."""
