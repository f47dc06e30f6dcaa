"""A client that speaks the Tinker wire over plain HTTP and, like the SDK, asks again while nobody answers."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from crucible_testing.gateway import MODEL, PROTOBUF, forward_backward_body

__all__ = ["Session", "Wire", "WireClient", "wire"]

JSON = "application/json"


class Wire(NamedTuple):
    """One request: path under ``/api/v1``, body and its media type."""

    path: str
    body: bytes
    media: str = JSON


def wire(path: str, /, **body: Any) -> Wire:
    """A request in JSON."""
    return Wire(path, json.dumps(body).encode())


class WireClient:
    """One kept connection to the port that ``port`` tells; while ``alive`` is not set, it waits."""

    def __init__(self, port: Callable[[], int], key: str, alive: threading.Event) -> None:
        self._port, self._key, self._alive = port, key, alive
        self._connection: http.client.HTTPConnection | None = None

    def once(self, method: str, path: str, body: Any = b"", **headers: str) -> tuple[int, bytes]:
        """Status and body of one answer.

        Raises:
            OSError, http.client.HTTPException: there was none.
        """
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port(), timeout=60)
        sent = {"X-API-Key": self._key, "Accept": PROTOBUF, "Content-Type": JSON, **headers}
        try:
            self._connection.request(method, path, body, sent)
            answer = self._connection.getresponse()
            told = answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if answer.will_close:
            self.close()
        return told

    def ask(self, method: str, path: str, body: Any = b"", **headers: str) -> tuple[int, bytes]:
        """As ``once``, again and again until somebody answers with something else than "later"."""
        while True:
            self._alive.wait(60)
            with suppress(OSError, http.client.HTTPException):
                status, told = self.once(method, path, body, **headers)
                if status not in (408, 429):
                    return status, told

    def send(self, request: Wire) -> tuple[int, bytes]:
        """The answer to a request."""
        return self.ask("POST", f"/api/v1/{request.path}", request.body, **{"Content-Type": request.media})

    def told(self, request: Wire) -> Any:
        """The JSON of an answer that has status 200."""
        status, body = self.send(request)
        assert status == 200, (request, status, body)
        return json.loads(body)

    def promise(self, request: Wire) -> str:
        """The id of what is promised for a request."""
        return str(self.told(request)["request_id"])

    def result(self, request: Wire, id: str | None = None) -> bytes:
        """What a request's promise (``id``) came to; one that nobody knows any more is asked for again."""
        while True:
            id = id or self.promise(request)
            status, body = self.send(wire("retrieve_future", request_id=id))
            if status == 200:
                return body
            assert status == 410, (request, status, body)
            id = None

    def get(self, path: str) -> Any:
        """The JSON at a path that is there."""
        status, body = self.ask("GET", path)
        assert status == 200, (path, status, body)
        return json.loads(body)

    def close(self) -> None:
        """Give up the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Session:
    """A session with one model; everything it does is the same in each session."""

    def __init__(self, client: WireClient, rows: list[list[int]]) -> None:
        self._client, self._rows = client, rows
        self.id = str(client.told(wire("create_session"))["session_id"])
        self.model = self._made(
            wire(
                "create_model",
                session_id=self.id,
                model_seq_id=0,
                base_model=MODEL,
                lora_config={"rank": 4, "seed": 7},
            )
        )

    def step(self, number: int, *, seq: int | None = None, model: str | None = None) -> tuple[Wire, Wire]:
        """``forward_backward`` and ``optim_step`` number ``number`` (from 0)."""
        model, seq = model or self.model, 2 * number + 1 if seq is None else seq
        adam = {"learning_rate": 0.1 / (number + 1)}
        return (
            Wire("forward_backward", forward_backward_body(model, seq, self._rows), PROTOBUF),
            wire("optim_step", model_id=model, seq_id=seq + 1, adam_params=adam),
        )

    def train(self, steps: range) -> list[bytes]:
        """Take steps, two requests on their way at once; the bytes of all results."""
        found = []
        for number in steps:
            requests = self.step(number)
            ids = [self._client.promise(request) for request in requests]
            found += [self._client.result(request, id) for request, id in zip(requests, ids, strict=True)]
        return found

    def loss(self, seq: int) -> bytes:
        """The bytes of a forward pass alone."""
        body = forward_backward_body(self.model, seq, self._rows, forward_only=True)
        return self._client.result(Wire("forward_backward", body, PROTOBUF))

    def save(self, seq: int, name: str) -> str:
        """The path of the present state."""
        request = wire("save_weights", model_id=self.model, seq_id=seq, path=name)
        return str(json.loads(self._client.result(request))["path"])

    def resumed(self, path: str, first: int) -> list[bytes]:
        """The results of step ``first`` of a second model that begins with a saved state."""
        body = {"session_id": self.id, "model_seq_id": 1, "path": path, "optimizer": True}
        model = self._made(wire("load_weights", **body))
        return [self._client.result(request) for request in self.step(first, seq=1, model=model)]

    def samples(self, seq: int) -> bytes:
        """The bytes of samples of the present weights."""
        saved = wire("save_weights_for_sampler", model_id=self.model, seq_id=seq, sampling_session_seq_id=0)
        sampler = json.loads(self._client.result(saved))["sampling_session_id"]
        prompt = {"chunks": [{"type": "encoded_text", "tokens": self._rows[0][:3]}]}
        more = {"prompt": prompt, "num_samples": 4, "prompt_logprobs": True}
        params = {"max_tokens": 8, "seed": 11}
        return self._client.result(
            wire("asample", sampling_session_id=sampler, seq_id=0, sampling_params=params, **more)
        )

    def listed(self) -> list[str]:
        """The names of this model's checkpoints."""
        found = self._client.get(f"/api/v1/training_runs/{self.model}/checkpoints")["checkpoints"]
        return [str(checkpoint["checkpoint_id"]) for checkpoint in found]

    def delete(self, name: str) -> None:
        """Remove a checkpoint; one that is gone already was removed by the same request before a restart."""
        path = f"/api/v1/training_runs/{self.model}/checkpoints/weights/{name}"
        status, body = self._client.ask("DELETE", path)
        assert status in (200, 204, 404), (status, body)

    def finish(self) -> None:
        """End the session; again is no error."""
        self._client.send(wire(f"sessions/{self.id}/finish", reason={"type": "success"}))

    def _made(self, request: Wire) -> str:
        return str(json.loads(self._client.result(request))["model_id"])
