"""Recorded traffic of the real SDK 0.38.0, sent again: the same requests get answers of the same shape."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_gateway.tinker.schema import messages
from crucible_testing.gateway import MODEL, PROTOBUF, Tinker

GOLDEN = Path(__file__).parent / "golden"

SHAPES: dict[str, Any] = json.loads((GOLDEN / "wire_shapes.json").read_text(encoding="utf-8"))["exchanges"]


def replayed(recorded: dict[str, Any], session: str) -> list[tuple[str, str, Any]]:
    """Requests of one recorded session under ``session``, numbered without the gaps of what was left out.

    Of the passes the first alone was recorded as it was sent: it stands for the others before their steps.
    """
    sent: list[tuple[str, str, Any]] = []
    number, passed = 0, None

    def train(item: dict[str, Any]) -> tuple[str, str, bytes]:
        message = messages().ForwardBackwardRequest.FromString(bytes.fromhex(item["body_hex"]))
        message.model_id, message.seq_id = message.model_id.replace("sess1", session), number
        return item["method"], item["path"], message.SerializeToString()

    for item in recorded["http"]:
        text = json.dumps(item)
        if "sess2" in text:
            continue
        if item["path"] in ("retrieve_future", "create_session"):
            continue
        if "body_hex" in item:
            number, passed = number + 1, item
            sent.append(train(item))
            continue
        if item["path"] == "optim_step" and sent[-1][1] == "optim_step" and passed is not None:
            number += 1
            sent.append(train(passed))
        body = json.loads(json.dumps(item.get("body")).replace("sess1", session).replace("Mini/mini", MODEL))
        if body and "model_id" in body and "seq_id" in body:
            number += 1
            body["seq_id"] = number
        sent.append((item["method"], item["path"].replace("sess1", session), body))
    return sent


def shape(value: Any) -> Any:
    """The keys of objects and the kinds of values."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )


def test_every_recorded_request_is_served_and_its_promise_kept(
    tinker: Tinker, recorded: dict[str, Any]
) -> None:
    session = tinker.session()
    seen: dict[str, list[Any]] = {}
    for method, path, body in replayed(recorded, session):
        headers = {"content-type": PROTOBUF} if isinstance(body, bytes) else {}
        answer = tinker.ask(method, f"/api/v1/{path}", body, headers=headers)
        assert answer.status == 200, (path, answer.body)
        told = answer.json()
        if "request_id" in told:
            told = tinker.result(told["request_id"])
        seen.setdefault(path.split("/")[0], []).append(told)
    assert set(seen) >= {
        *("client", "create_model", "get_info", "forward_backward", "optim_step", "save_weights"),
        *("load_weights", "save_weights_for_sampler", "create_sampling_session", "asample", "sessions"),
    }
    failed = [
        told for answers in seen.values() for told in answers if isinstance(told, dict) and "error" in told
    ]
    assert failed == []


@pytest.mark.parametrize("name", [name for name in SHAPES if name.startswith("POST retrieve_future ")])
def test_a_result_has_what_a_recorded_one_has(tinker: Tinker, name: str) -> None:
    model = tinker.model()
    tinker.train(model, 1, [[1, 2, 3]])
    made = {
        "create_model": lambda: f"{model}:create",
        "other": lambda: tinker.step(model, 2),
        "save_weights": lambda: tinker.post(
            "save_weights", {"model_id": model, "seq_id": 2, "path": "one", "overwrite": False}
        )["request_id"],
        "save_weights_for_sampler": lambda: tinker.post(
            "save_weights_for_sampler",
            {"model_id": model, "seq_id": 2, "sampling_session_seq_id": 0, "kind": "snapshot"},
        )["request_id"],
        "load_weights": lambda: loaded(tinker, model),
    }
    wanted = shape(SHAPES[name]["response"])
    found = shape(tinker.result(made[name.split()[2]]()))
    if "metrics" in wanted:
        assert found["metrics"]
        assert set(found["metrics"].values()) == {"number"}
        return
    assert {key: kind for key, kind in wanted.items() if kind != "NoneType"} == {
        key: kind for key, kind in found.items() if kind != "NoneType"
    }


def loaded(tinker: Tinker, model: str) -> str:
    saved = tinker.post("save_weights", {"model_id": model, "seq_id": 2, "path": "one"})
    path = tinker.result(saved["request_id"])["path"]
    body = {"session_id": model.split(":")[0], "model_seq_id": 1, "path": path, "optimizer": True}
    return str(tinker.post("load_weights", body)["request_id"])


def test_lists_have_what_recorded_ones_have(tinker: Tinker) -> None:
    model = tinker.model(user_metadata={"a": 1})
    for path in ("training_runs", f"training_runs/{model}/checkpoints"):
        recorded_path = path.replace(model, "ID")
        wanted = SHAPES[f"GET {recorded_path}"]["response"]
        assert set(wanted) <= set(tinker.get(path)), path
    run = tinker.get("training_runs")["training_runs"][0]
    assert set(SHAPES["GET training_runs"]["response"]["training_runs"][0]) <= set(run)
    assert run["user_metadata"] == {"a": "1"}
    wanted = SHAPES["GET get_server_capabilities"]["response"]["supported_models"][0]
    assert set(wanted) == set(tinker.get("get_server_capabilities")["supported_models"][0])


def test_the_promise_of_samples_names_each_of_them(tinker: Tinker) -> None:
    session = tinker.session()
    sampler = tinker.post(
        "create_sampling_session", {"session_id": session, "sampling_session_seq_id": 0, "base_model": MODEL}
    )["sampling_session_id"]
    body = {
        "sampling_session_id": sampler,
        "seq_id": 0,
        "num_samples": 3,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
        "sampling_params": {"max_tokens": 2, "seed": 1},
    }
    promise = tinker.post("asample", body)
    assert len(set(promise["sample_sequence_ids"])) == 3
    assert len(tinker.result(promise["request_id"]).sequences) == 3


def test_an_older_sdk_reads_and_writes_json(tinker: Tinker) -> None:
    model = tinker.model()
    data = {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
        "loss_fn_inputs": {
            "target_tokens": {"data": [2, 3], "dtype": "int64", "shape": [2]},
            "weights": {"data": [1.0, 1.0], "dtype": "float32", "shape": [2]},
        },
    }
    work = {"data": [data], "loss_fn": "cross_entropy"}
    old = tinker.post("forward_backward", {"model_id": model, "seq_id": 1, "forward_backward_input": work})
    told = tinker.result(old["request_id"], protobuf=False)
    assert told["loss_fn_outputs"][0]["logprobs"]["shape"] == [2]
    new = tinker.result(tinker.train(model, 2, [[1, 2, 3]], forward_only=True))
    field = new.loss_fn_outputs[0].fields["logprobs"]
    np.testing.assert_array_equal(
        np.frombuffer(field.data, dtype=np.float32), told["loss_fn_outputs"][0]["logprobs"]["data"]
    )
    only = tinker.post("forward", {"model_id": model, "seq_id": 3, "forward_input": work})
    assert tinker.result(only["request_id"], protobuf=False)["metrics"] == told["metrics"]
    tinker.step(model, 4)
    assert tinker.backend.clients[0].table.steps == 1 or tinker.loss(model, 5, [[1, 2, 3]]) > 0


def test_a_result_that_is_not_there_yet_is_asked_for_again(start: Any) -> None:
    tinker = start(limits={"poll_s": 0.01})
    model = tinker.model()
    waiting = tinker.train(model, 2, [[1, 2]])
    answer = tinker.ask("POST", "/api/v1/retrieve_future", {"request_id": waiting})
    assert answer.status == 408
    assert answer.json() == {"type": "try_again", "request_id": waiting, "queue_state": "active"}


def test_a_promise_that_nobody_knows_is_gone(tinker: Tinker) -> None:
    assert tinker.ask("POST", "/api/v1/retrieve_future", {"request_id": "x:1"}).status == 410
