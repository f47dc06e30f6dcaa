"""Who is let in, how much at once, and what the server tells of itself."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from crucible_gateway.tinker.access import KeyCheck, key_from, require_usable_key
from crucible_gateway.tinker.metrics import Meters
from crucible_gateway.tinker.served import served_model
from crucible_ir import ConfigError, NotFoundError
from crucible_testing.gateway import MODEL, PROTOBUF, Tinker, forward_backward_body

KEY = "tml-a-secret-key"
ROWS = [[1, 2, 3]]


@pytest.mark.parametrize(
    "headers",
    [{"x-api-key": ""}, {"x-api-key": "tml-another-key"}, {"x-api-key": KEY + "x"}, {"x-api-key": KEY[:-1]}],
)
@pytest.mark.parametrize(
    "path", ["/api/v1/create_session", "/api/v1/retrieve_future", "/metrics", "/nowhere"]
)
def test_without_the_key_nothing_is_answered(start: Any, path: str, headers: dict[str, str]) -> None:
    tinker = start(api_key=KEY)
    assert tinker.ask("POST", path, {}, headers=headers).status == 401


def test_with_the_key_everything_is_and_health_needs_none(start: Any) -> None:
    tinker = start(api_key=KEY)
    assert tinker.model()
    assert tinker.ask("GET", "/api/v1/healthz", headers={"x-api-key": ""}).json() == {"status": "ok"}
    bearer = {"x-api-key": "", "authorization": f"Bearer {KEY}"}
    assert tinker.ask("GET", "/metrics", headers=bearer).status == 200


def test_a_key_that_the_sdk_would_not_send_is_refused_before_serving() -> None:
    assert require_usable_key(KEY, "NAME") == KEY
    for key in ("secret", "tml-", "sk-aaaaaaaaaaaaaaa"):
        with pytest.raises(ConfigError, match=r"\$NAME"):
            require_usable_key(key, "NAME")


def test_no_key_asked_for_admits_every_one() -> None:
    assert KeyCheck(None).admits("")
    assert KeyCheck(KEY).admits(KEY)
    assert not KeyCheck(KEY).admits("")
    assert key_from({"authorization": "Basic x"}) == ""


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example:8040", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("localhost:1", 200),
        ("localhost", 200),
        ("[::1]:80", 200),
    ],
)
def test_a_page_that_makes_a_browser_ask_is_not_answered(start: Any, host: str, status: int) -> None:
    tinker = start(hosts=("127.0.0.1", "::1", "localhost"))
    assert tinker.ask("GET", "/api/v1/healthz", headers={"host": host}).status == status


def test_a_body_beyond_the_limit_is_refused_and_the_server_goes_on(start: Any) -> None:
    tinker = start(limits={"body_bytes": 100_000})
    model = tinker.model()
    large = forward_backward_body(model, 1, [[1, 2] * 50_000])
    answer = tinker.ask("POST", "/api/v1/forward_backward", large, headers={"content-type": PROTOBUF})
    assert (answer.status, answer.json()["category"]) == (413, "user")
    assert tinker.loss(model, 1, ROWS) > 0


def test_a_compressed_body_is_refused(tinker: Tinker) -> None:
    headers = {"content-type": PROTOBUF, "content-encoding": "zstd"}
    assert tinker.ask("POST", "/api/v1/forward_backward", b"x", headers=headers).status == 422
    assert tinker.post("client/config", {"sdk_version": "0.38.0"})["proto_compress_fwdbwd"] is False


def test_a_full_queue_is_told_to_wait_and_never_blocks_the_one_that_is_next(start: Any) -> None:
    tinker = start(limits={"waiting_requests": 3})
    model = tinker.model()
    for seq in (2, 3, 4):
        tinker.train(model, seq, ROWS)
    body = forward_backward_body(model, 5, ROWS)
    refused = tinker.ask("POST", "/api/v1/forward_backward", body, headers={"content-type": PROTOBUF})
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    first = tinker.train(model, 1, ROWS)
    assert tinker.result(f"{model}:4").metrics
    assert tinker.result(first).metrics
    again = tinker.train(model, 5, ROWS)
    assert tinker.result(again).metrics


def test_memory_for_waiting_requests_is_bounded_over_all_models(start: Any) -> None:
    size = len(forward_backward_body("x" * 44, 2, ROWS))
    tinker = start(limits={"waiting_bytes": size + size // 2})
    session = tinker.session()
    models = [tinker.model(session, number=number) for number in (0, 1)]
    tinker.train(models[0], 2, ROWS)
    body = forward_backward_body(models[1], 2, ROWS)
    refused = tinker.ask("POST", "/api/v1/forward_backward", body, headers={"content-type": PROTOBUF})
    assert refused.status == 429
    tinker.train(models[0], 1, ROWS)
    tinker.result(f"{models[0]}:2")
    assert tinker.train(models[1], 2, ROWS)


def test_too_many_samples_are_told_to_wait(start: Any) -> None:
    tinker = start(limits={"waiting_samples": 0})
    session = tinker.session()
    body = {"session_id": session, "sampling_session_seq_id": 0, "base_model": MODEL}
    sampler = tinker.post("create_sampling_session", body)["sampling_session_id"]
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [1]}]}
    answer = tinker.ask(
        "POST", "/api/v1/asample", {"sampling_session_id": sampler, "seq_id": 0, "prompt": prompt}
    )
    assert answer.status == 429


def test_what_is_counted_can_be_read_by_prometheus_and_by_people(tinker: Tinker) -> None:
    model = tinker.model()
    tinker.result(tinker.train(model, 1, ROWS))
    tinker.result(tinker.step(model, 2))
    text = tinker.ask("GET", "/metrics").body.decode()
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert families["crucible_tokens"] == families["crucible_requests"] == "counter"
    assert families["crucible_state"] == "gauge"
    assert 'crucible_tokens_total{kind="trained"} 2.0' in text
    assert "crucible_optimizer_steps_total 1.0" in text
    assert 'crucible_requests_total{endpoint="/optim_step",status="200"} 1.0' in text
    assert 'crucible_state{of="models_open"} 1.0' in text
    status = tinker.ask("GET", "/crucible/status").json()
    assert (status["backend"], status["models"], status["models_open"]) == ("bigram", [MODEL], 1)
    assert status["requests_waiting"] == status["request_bytes_waiting"] == status["samples_waiting"] == 0
    assert status["resident_memory_bytes"] > 0


def test_paths_that_nobody_serves_are_counted_as_one(tinker: Tinker) -> None:
    for number in range(5):
        assert tinker.ask("GET", f"/api/v1/nothing{number}").status == 404
    text = tinker.ask("GET", "/metrics").body.decode()
    assert 'crucible_requests_total{endpoint="unknown",status="404"} 5.0' in text


def test_rates_are_those_of_the_last_minute() -> None:
    now = [0.0]
    meters = Meters(now=lambda: now[0])
    meters.trained(600, forward_only=False)
    assert meters.rates()["trained"] == 10.0
    now[0] = 61.0
    assert meters.rates()["trained"] == 0.0


def test_many_clients_at_once_are_served(tinker: Tinker) -> None:
    async def one(number: int) -> None:
        loop = asyncio.get_running_loop()
        model = await loop.run_in_executor(None, tinker.model)
        for step in range(5):
            await loop.run_in_executor(None, tinker.train, model, 2 * step + 1, ROWS)
            await loop.run_in_executor(None, tinker.step, model, 2 * step + 2)
        assert "metrics" in await loop.run_in_executor(None, tinker.result, f"{model}:10")

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(8)))

    asyncio.run(all_of_them())
    assert tinker.ask("GET", "/crucible/status").json()["requests_waiting"] == 0


# --- which models ------------------------------------------------------------------------------------------


def test_a_folder_is_served_under_its_path_or_a_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 77}')
    named = served_model(f"Qwen/Qwen3-8B={tmp_path}", local=True)
    assert (named.name, named.source, named.max_length) == ("Qwen/Qwen3-8B", str(tmp_path), 77)
    assert named.tokenizer_id == str(tmp_path)
    assert served_model(f"Qwen/Qwen3-8B={tmp_path}", local=False).tokenizer_id == "Qwen/Qwen3-8B"
    assert served_model(str(tmp_path), local=True).name == str(tmp_path)
    hub = served_model("Qwen/Qwen3-8B", local=True)
    assert (hub.source, hub.tokenizer_id, hub.max_length) == ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", None)


@pytest.mark.parametrize("text", ["name=nowhere", "./nowhere", "/nowhere/at/all", "~/nowhere"])
def test_a_folder_that_is_not_there_is_told(text: str) -> None:
    with pytest.raises(NotFoundError, match="there is no folder"):
        served_model(text, local=True)


def test_a_path_that_the_sdk_would_cut_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "resolve", lambda self: Path("/models/tiny"))
    with pytest.raises(ConfigError, match="drops its last part"):
        served_model(str(tmp_path), local=True)


def test_a_name_with_a_variant_is_the_model_itself(tinker: Tinker) -> None:
    assert tinker.settings.model(f"{MODEL}:long") is tinker.settings.models[0]
    assert tinker.settings.model("other") is None
