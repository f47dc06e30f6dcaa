"""A small server that speaks vLLM's documented API over a bigram model, and can be told to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["END", "POSITIONS", "VOCABULARY", "StandIn", "serving"]

VOCABULARY, POSITIONS, END = 64, 64, 2


class StandIn:
    """State of the server: adapters by name, bodies it was sent, and answers that it gives instead of its own."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.bodies: list[dict[str, Any]] = []
        self.instead: list[tuple[int, Any]] = []
        self.loads_adapters = True
        self.url = ""
        rng = np.random.Generator(np.random.PCG64(3))
        scores = rng.normal(size=(VOCABULARY, VOCABULARY)) * 2
        self.logprobs: NDArray[np.float64] = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        self.unseeded = np.random.Generator(np.random.PCG64(9))

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        self.bodies.append(body)
        if self.instead:
            return self.instead.pop(0)
        if path == "/v1/load_lora_adapter" and self.loads_adapters:
            if body["lora_name"] in self.adapters:
                return 400, {
                    "error": {"message": f"The lora adapter '{body['lora_name']}' has already been loaded."}
                }
            self.adapters[body["lora_name"]] = body["lora_path"]
            return 200, "Success"
        if path == "/v1/unload_lora_adapter" and self.loads_adapters:
            known = self.adapters.pop(body["lora_name"], None)
            return (200, "Success") if known else (404, {"error": {"message": "not found"}})
        if path == "/v1/completions":
            if body["model"] not in {"base", *self.adapters}:
                return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
            return 200, {"choices": [self._choice(body)]}
        return 404, {"detail": "Not Found"}

    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        rng = np.random.Generator(np.random.PCG64(body["seed"])) if "seed" in body else self.unseeded
        tokens: list[int] = []
        reason = "length"
        while len(tokens) < body["max_tokens"]:
            row = self.logprobs[[*body["prompt"], *tokens][-1]]
            tokens.append(chosen(row, body, rng))
            if tokens[-1] in body.get("stop_token_ids", ()) or (
                tokens[-1] == END and not body.get("ignore_eos")
            ):
                reason = "stop"
                break
        before = [body["prompt"][-1], *tokens[:-1]]
        choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": reason, "token_ids": tokens}
        choice["logprobs"] = {
            "token_logprobs": [self.logprobs[a, b] for a, b in zip(before, tokens, strict=True)]
        }
        if "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [None, *self._told(body["prompt"], body["prompt_logprobs"])]
        return choice

    def _told(self, prompt: list[int], count: int) -> Iterator[dict[str, dict[str, Any]]]:
        for before, token in pairwise(prompt):
            row = self.logprobs[before]
            ids = {token, *np.argsort(-row)[:count].tolist()}
            yield {str(one): {"logprob": row[one], "rank": 1, "decoded_token": "?"} for one in ids}


def chosen(row: NDArray[np.float64], body: dict[str, Any], rng: np.random.Generator) -> int:
    """A token by temperature, top_k and top_p."""
    if body["temperature"] == 0:
        return int(row.argmax())
    order = np.argsort(-row)
    order = order[: body["top_k"]] if body["top_k"] > 0 else order
    weights = np.exp((row[order] - row.max()) / body["temperature"])
    weights /= weights.sum()
    weights[np.cumsum(weights) - weights >= body["top_p"]] = 0
    return int(rng.choice(order, p=weights / weights.sum()))


@contextmanager
def serving() -> Iterator[StandIn]:
    """The server on a free port of the loopback."""
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(
                200,
                {"data": [{"id": name, "max_model_len": POSITIONS} for name in ("base", *stand_in.adapters)]},
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._send(*stand_in.answer(self.path, body))

        def _send(self, status: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stand_in
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
