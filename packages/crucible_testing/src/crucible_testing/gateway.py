"""A Tinker-compatible server over the bigram backend, in this process, as an SDK sees it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from crucible_gateway.tinker.app import tinker_app
from crucible_gateway.tinker.schema import messages
from crucible_gateway.tinker.settings import TinkerSettings
from crucible_testing.asgi import RunningApp
from crucible_testing.backend import BigramBackend
from crucible_train.ports import TrainingBackend

__all__ = ["MODEL", "PROTOBUF", "Tinker", "forward_backward_body"]

MODEL = "Big/gram"
PROTOBUF = "application/x-protobuf"


class Tinker(RunningApp):
    """A server as an SDK sees it."""

    def __init__(self, backend: BigramBackend, settings: TinkerSettings, **options: Any) -> None:
        self.app = tinker_app(cast(TrainingBackend, backend), settings, **options)
        self.backend, self.settings = backend, settings
        key = {} if settings.api_key is None else {"x-api-key": settings.api_key}
        super().__init__(self.app, headers=key)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """The JSON of an answer that has status 200."""
        answer = self.ask("POST", f"/api/v1/{path}", body, headers=headers)
        assert answer.status == 200, (answer.status, answer.body)
        return answer.json()

    def get(self, path: str) -> Any:
        """The JSON of an answer that has status 200."""
        answer = self.ask("GET", f"/api/v1/{path}")
        assert answer.status == 200, (answer.status, answer.body)
        return answer.json()

    def result(self, request_id: str, *, protobuf: bool = True) -> Any:
        """What a promise came to: JSON, or a message for results in protobuf. Asks again, as an SDK does."""
        accept = {"accept": PROTOBUF} if protobuf else {}
        for _ in range(5000):
            answer = self.ask("POST", "/api/v1/retrieve_future", {"request_id": request_id}, headers=accept)
            if answer.status != 408:
                break
        assert answer.status == 200, (answer.status, answer.body)
        if answer.headers["content-type"] != PROTOBUF:
            return answer.json()
        kind = "SampleResponse" if ":sample:" in request_id else "ForwardBackwardOutput"
        return getattr(messages(), kind).FromString(answer.body)

    def session(self) -> str:
        """A new session."""
        return str(self.post("create_session", {"tags": [], "sdk_version": "0.38.0"})["session_id"])

    def model(self, session: str | None = None, *, number: int = 0, **more: Any) -> str:
        """A new model's id."""
        body = {
            "session_id": session or self.session(),
            "model_seq_id": number,
            "base_model": MODEL,
            "lora_config": {"rank": 4, "seed": 7},
            **more,
        }
        promise = self.post("create_model", body)
        return str(self.result(promise["request_id"])["model_id"])

    def train(self, model: str, seq: int, rows: list[list[int]], **more: Any) -> str:
        """Submit a forward_backward; the id of its promise."""
        body = forward_backward_body(model, seq, rows, **more)
        return str(self.post("forward_backward", body, **{"content-type": PROTOBUF})["request_id"])

    def step(self, model: str, seq: int, learning_rate: float = 0.1) -> str:
        """Submit an optimiser step; the id of its promise."""
        body = {"model_id": model, "seq_id": seq, "adam_params": {"learning_rate": learning_rate}}
        return str(self.post("optim_step", body)["request_id"])

    def loss(self, model: str, seq: int, rows: list[list[int]]) -> float:
        """The present loss of a model."""
        return float(self.result(self.train(model, seq, rows, forward_only=True)).metrics["loss:sum"])


def forward_backward_body(
    model: str,
    seq: int,
    rows: list[list[int]],
    *,
    loss: str = "cross_entropy",
    forward_only: bool = False,
    weight: float = 1.0,
) -> bytes:
    """A ForwardBackwardRequest over rows of tokens, each predicting the next."""
    pb = messages()
    message = pb.ForwardBackwardRequest(model_id=model, seq_id=seq, loss_fn=loss, forward_only=forward_only)
    for row in rows:
        datum = message.data.add()
        datum.model_input.add().encoded_text.tokens = np.asarray(row[:-1], dtype=np.int32).tobytes()
        targets, weights = datum.loss_fn_inputs["target_tokens"], datum.loss_fn_inputs["weights"]
        targets.dense, targets.dtype = np.asarray(row[1:], dtype=np.int64).tobytes(), pb.DTYPE_INT64
        targets.shape.append(len(row) - 1)
        weights.dense = np.full(len(row) - 1, weight, dtype=np.float32).tobytes()
        weights.dtype = pb.DTYPE_FLOAT32
        weights.shape.append(len(row) - 1)
    return bytes(message.SerializeToString())
