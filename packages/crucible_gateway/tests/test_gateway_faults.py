"""What is malformed, at random: refused, and the server goes on; and what must not grow."""

import concurrent.futures
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crucible_gateway.tinker.promises import Outcome, Promises, json_outcome
from crucible_testing.gateway import MODEL, PROTOBUF, Tinker, forward_backward_body

ROWS = [[1, 2, 3]]
ENDPOINTS = (
    *("client/config", "create_session", "session_heartbeat", "create_model", "get_info", "forward_backward"),
    *("forward", "optim_step", "save_weights", "save_weights_for_sampler", "save_weights_external"),
    *("load_weights", "create_sampling_session", "join_sampling_session", "asample", "retrieve_futures"),
    *(
        "cancel_future",
        "weights_info",
        "copy_weights",
        "sessions/search",
        "telemetry",
        "client/dynamic_config",
    ),
)
KEYS = (
    *(
        "model_id",
        "seq_id",
        "session_id",
        "model_seq_id",
        "base_model",
        "lora_config",
        "rank",
        "path",
        "prompt",
    ),
    *("chunks", "tokens", "type", "adam_params", "learning_rate", "sampling_session_id", "sampling_params"),
    *("max_tokens", "stop", "num_samples", "target", "cloned_sampler_id", "prev_cursor", "timeout", "cursor"),
    *("forward_backward_input", "data", "loss_fn", "loss_fn_inputs", "model_input", "dtype", "shape"),
    *("ttl_seconds", "overwrite", "kind", "request_id", "tinker_path", "source_path", "limit", "optimizer"),
)


def values(known: list[Any]) -> st.SearchStrategy[Any]:
    leaves = st.sampled_from([*known, None, True, 0, 1, -1, 10**30, 0.5, "", "x", "tinker://a/weights/b"])
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
        max_leaves=12,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from crucible_gateway.tinker.settings import Limits, ServedModel, TinkerSettings
    from crucible_testing.backend import BigramBackend, write_bigram_model

    folder = write_bigram_model(tmp_path_factory.mktemp("model"))
    served = ServedModel(name=MODEL, source=str(folder), tokenizer_id=str(folder), max_length=64)
    state = tmp_path_factory.mktemp("state")
    chosen = TinkerSettings(models=(served,), state=state, limits=Limits(poll_s=0.01, body_bytes=100_000))
    with Tinker(BigramBackend(), chosen) as tinker:
        model = tinker.model()
        session = model.split(":")[0]
        body = {"session_id": session, "sampling_session_seq_id": 0, "base_model": MODEL}
        tinker.known = (session, model, tinker.post("create_sampling_session", body)["sampling_session_id"])
        yield tinker


BEYOND = 10**40
PROMPT = {"chunks": [{"type": "encoded_text", "tokens": [1]}]}


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("optim_step", {"seq_id": BEYOND, "adam_params": {}}, "seq_id"),
        ("optim_step", {"seq_id": -1, "adam_params": {}}, "seq_id"),
        ("optim_step", {"seq_id": "abc", "adam_params": {}}, "seq_id"),
        ("create_model", {"model_seq_id": BEYOND, "base_model": MODEL}, "model_seq_id"),
        (
            "create_sampling_session",
            {"sampling_session_seq_id": BEYOND, "base_model": MODEL},
            "sampling_session",
        ),
        ("asample", {"seq_id": BEYOND, "prompt": PROMPT}, "seq_id"),
        ("asample", {"seq_id": 1, "prompt": {"chunks": [{"tokens": [BEYOND]}]}}, "token id"),
        ("asample", {"seq_id": 2, "prompt": PROMPT, "sampling_params": {"seed": -1}}, "seed"),
        ("asample", {"seq_id": 3, "prompt": PROMPT, "sampling_params": {"max_tokens": BEYOND}}, "max_tokens"),
    ],
)
def test_numbers_beyond_every_bound_are_the_users_mistake(
    tinker: Tinker, path: str, body: dict[str, Any], said: str
) -> None:
    model = tinker.model()
    session = model.split(":")[0]
    made = {"session_id": session, "sampling_session_seq_id": 0, "base_model": MODEL}
    sampler = tinker.post("create_sampling_session", made)["sampling_session_id"]
    known = {"session_id": session, "model_id": model, "sampling_session_id": sampler}
    answer = tinker.ask("POST", f"/api/v1/{path}", {**known, **body})
    told = answer.json()
    if answer.status == 200:
        told = tinker.result(told["request_id"])
    assert told["category"] == "user"
    assert said in told["error"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data(), endpoint=st.sampled_from(ENDPOINTS))
def test_no_json_makes_the_server_fail(quick: Tinker, data: st.DataObject, endpoint: str) -> None:
    session, model, sampler = quick.known
    body = data.draw(values([session, model, sampler, MODEL]))
    if not isinstance(body, dict) or data.draw(st.booleans()):
        keys = data.draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=6))
        body = {key: data.draw(values([session, model, sampler, MODEL])) for key in keys}
    if data.draw(st.booleans()):
        body |= {"session_id": session, "model_id": model, "sampling_session_id": sampler}
    answer = quick.ask("POST", f"/api/v1/{endpoint}", json.dumps(body).encode(), timeout_s=30)
    assert answer.status < 500, (answer.status, answer.body)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=300),
    endpoint=st.sampled_from(ENDPOINTS),
    media=st.sampled_from([PROTOBUF, "application/json", "text/plain"]),
)
def test_no_bytes_make_the_server_fail(quick: Tinker, body: bytes, endpoint: str, media: str) -> None:
    answer = quick.ask("POST", f"/api/v1/{endpoint}", body, headers={"content-type": media}, timeout_s=30)
    assert answer.status < 500, (answer.status, answer.body)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 150), value=st.integers(0, 255))
def test_a_damaged_request_fails_alone_and_its_model_goes_on(quick: Tinker, place: int, value: int) -> None:
    model = quick.model()
    body = bytearray(forward_backward_body(model, 1, ROWS))
    body[len(model) + 4 + place % (len(body) - len(model) - 4)] = value
    headers = {"content-type": PROTOBUF}
    answer = quick.ask("POST", "/api/v1/forward_backward", bytes(body), headers=headers, timeout_s=30)
    assert answer.status < 500
    if answer.status != 200 or answer.json()["request_id"] != f"{model}:1":
        quick.train(model, 1, ROWS)
    assert quick.loss(model, 2, ROWS) > 0


def test_sixteen_clients_with_mistakes_among_them_lose_nothing(start: Any) -> None:
    tinker = start(limits={"snapshot_steps": 3})

    def client(number: int) -> list[float]:
        model = tinker.model()
        losses, seq = [], 1
        for step in range(8):
            if (number + step) % 5 == 0:  # a mistake, whose step is then refused, and the batch sent again
                assert tinker.result(tinker.train(model, seq, ROWS, loss="nothing"))["category"] == "user"
                assert tinker.result(tinker.step(model, seq + 1))["category"] == "user"
                seq += 2
            done = tinker.train(model, seq, ROWS)
            tinker.step(model, seq + 1)
            losses.append(tinker.result(done).metrics["loss:sum"])
            seq += 2
        return losses

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        results = list(pool.map(client, range(16)))
    assert all(result == results[0] for result in results)
    assert len(set(results[0])) == 8


# --- what must not grow ------------------------------------------------------------------------------------


def test_results_that_were_read_are_kept_up_to_a_number_and_a_size() -> None:
    promises = Promises(kept=3, kept_bytes=100)
    for number in range(5):
        promise = promises.open(f"p{number}")
        promises.settle(promise, json_outcome({}))
        promises.mark_read(promise)
        promises.mark_read(promise)
    assert [promises.find(f"p{number}") is not None for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    large = promises.open("large")
    promises.settle(large, Outcome(form="output", body=b"x" * 99))
    promises.mark_read(large)
    assert len(promises) == 1
    promises.settle(promises.open("unread"), Outcome(form="output", body=b"x" * 500))
    assert promises.find("unread") is not None


def test_samples_that_nobody_polls_leave_no_trace(start: Any) -> None:
    tinker = start(limits={"kept_results": 4})
    body = {"session_id": tinker.session(), "sampling_session_seq_id": 0, "base_model": MODEL}
    sampler = tinker.post("create_sampling_session", body)["sampling_session_id"]
    for seq in range(20):
        asked = {
            "sampling_session_id": sampler,
            "seq_id": seq,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1]}]},
            "sampling_params": {"max_tokens": 1},
        }
        tinker.result(tinker.post("asample", asked)["request_id"])
    assert tinker.ask("GET", "/crucible/status").json()["promises"] == 4


def test_a_session_that_ends_while_its_model_is_made_keeps_no_client(start: Any) -> None:
    tinker = start()
    session = tinker.session()
    body = {"session_id": session, "model_seq_id": 0, "base_model": MODEL, "lora_config": {"rank": 4}}
    made = tinker.asking("POST", "/api/v1/create_model", body)
    ended = tinker.asking("POST", f"/api/v1/sessions/{session}/finish", {"reason": {"type": "success"}})
    assert made.result(30).status == 200
    assert ended.result(30).status == 200
    tinker.later(tinker.app.state.service.settled()).result(30)
    assert all(client.closed for client in tinker.backend.clients)
    assert tinker.ask("GET", "/crucible/status").json()["models_open"] == 0
