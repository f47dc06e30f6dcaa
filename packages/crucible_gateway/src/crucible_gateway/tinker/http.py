"""What every endpoint goes through: key, host, size, counting; and how errors become answers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crucible_gateway.tinker.access import KeyCheck, key_from
from crucible_gateway.tinker.metrics import Meters
from crucible_gateway.tinker.overload import OverloadedError
from crucible_gateway.tinker.sessions import SessionEndedError
from crucible_ir import (
    ConfigError,
    ConflictError,
    Contract,
    CrucibleError,
    DataError,
    NotFoundError,
    StorageError,
)

__all__ = ["Gate", "TooLargeError", "add_error_answers", "body_of", "json_response", "read_body"]

C = TypeVar("C", bound=Contract)
_PORT = re.compile(r":\d*$")
_OPEN = {"/api/v1/healthz", "/api/v1/download"}
_STATUS: tuple[tuple[type[CrucibleError], int], ...] = (
    (OverloadedError, 429),
    (SessionEndedError, 410),
    (NotFoundError, 404),
    (ConfigError, 422),
    (DataError, 422),
    (ConflictError, 422),  # not 409: the SDK would send the same again
    (StorageError, 507),
)


class TooLargeError(DataError):
    """A body beyond the limit; told with status 413."""


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(json.dumps(value), status_code=status, media_type="application/json", headers=headers)


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request.

    Raises:
        TooLargeError: it is larger than ``limit`` bytes; no more than that is read.
        DataError: it is compressed.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise DataError(
            what=f"a body in {request.headers['content-encoding']}",
            where="content-encoding",
            remedy="send it as it is; client/config says so",
        )
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise TooLargeError(
                what=f"a body of more than {limit} bytes", where="request", remedy="send the batch in parts"
            )
        pieces.append(piece)
    return b"".join(pieces)


async def body_of(request: Request, kind: type[C], limit: int) -> C:
    """The JSON body of a request; keys that nobody knows are left aside.

    Raises:
        ConfigError: something is missing or of the wrong type; every problem at once.
    """
    return kind.parse(await read_body(request, limit) or b"{}", strict=False)


def add_error_answers(app: FastAPI) -> None:
    """Let errors of the one tree become answers that the SDK reads."""

    async def answer(_: Request, error: Exception) -> Response:
        status = 413 if isinstance(error, TooLargeError) else _status(error)
        headers = {}
        if isinstance(error, OverloadedError):
            headers["Retry-After"] = str(int(error.retry_after_s or 1))
        category = "user" if 400 <= status < 500 else "server"
        return json_response({"error": str(error), "category": category}, status, headers)

    async def nobody(_: Request, __: Exception) -> Response:
        """A client that hung up before its request was whole: what it sent is dropped, and nobody reads this."""
        return Response(status_code=400)

    app.add_exception_handler(CrucibleError, answer)
    app.add_exception_handler(ClientDisconnect, nobody)


def _status(error: Exception) -> int:
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


class Gate:
    """Lets through what has the key and asks for this server by a name it has; counts all."""

    def __init__(self, app: ASGIApp, *, key: KeyCheck, hosts: tuple[str, ...], meters: Meters) -> None:
        self._app = app
        self._key = key
        self._hosts = hosts
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                endpoint = getattr(scope.get("route"), "path", "unknown").removeprefix("/api/v1")
                self._meters.answered(endpoint, message["status"], time.perf_counter() - start)
            await send(message)

        await self._chosen(scope)(scope, receive, counted)

    def _chosen(self, scope: Scope) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = _PORT.sub("", headers.get("host", "")).strip("[]")
        if self._hosts and host not in self._hosts:
            return _refusal(f"this server is not {host!r}", 421)
        if scope["path"] not in _OPEN and not self._key.admits(key_from(headers)):
            return _refusal("a key is missing or wrong; send it as X-API-Key", 401)
        return self._app


def _refusal(what: str, status: int) -> Response:
    return json_response({"error": what, "category": "user"}, status)
