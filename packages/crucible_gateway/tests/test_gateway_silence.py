"""Clients that are silent or gone: what is kept of them, for how long, and that tidying never ends."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crucible_gateway.tinker.service import TinkerService
from crucible_testing.gateway import MODEL, Tinker


def sampler_of(tinker: Tinker, session: str) -> str:
    body = {"session_id": session, "sampling_session_seq_id": 0, "base_model": MODEL}
    return str(tinker.post("create_sampling_session", body)["sampling_session_id"])


def sample(tinker: Tinker, sampler: str) -> str:
    body = {"sampling_session_id": sampler, "seq_id": 0, "sampling_params": {"max_tokens": 2, "seed": 1}}
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [1]}]}
    return str(tinker.post("asample", {**body, "prompt": prompt})["request_id"])


def test_samples_that_a_silent_client_did_not_read_go_and_are_made_anew_if_it_comes_back(start: Any) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    tinker = start(options={"clock": lambda: now[0]})
    samplers = [sampler_of(tinker, tinker.session()) for _ in range(2)]
    ids = [sample(tinker, sampler) for sampler in samplers]
    wanted = tinker.result(ids[0]).sequences[0].tokens
    tinker.result(ids[1])
    now[0] += timedelta(hours=2)
    tinker.post("session_heartbeat", {"session_id": samplers[1].partition(":")[0]})
    tinker.later(tinker.app.state.service.tidy()).result(30)
    asked = [tinker.ask("POST", "/api/v1/retrieve_future", {"request_id": id}).status for id in ids]
    assert asked == [410, 200]
    assert tinker.result(sample(tinker, samplers[0])).sequences[0].tokens == wanted


def test_what_is_kept_of_clients_that_are_gone_is_their_checkpoints(start: Any) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    tinker = start(options={"clock": lambda: now[0]})
    service = tinker.app.state.service
    models = [tinker.model() for _ in range(3)]
    sessions = [model.partition(":")[0] for model in models]
    for model in models[:2]:
        promise = tinker.post("save_weights", {"model_id": model, "seq_id": 1, "path": "one"})
        path = tinker.result(promise["request_id"])["path"]
    samplers = [sampler_of(tinker, session) for session in sessions]
    sample(tinker, samplers[2])

    def after_days(days: int) -> list[list[str]]:
        now[0] += timedelta(days=days)
        tinker.post("session_heartbeat", {"session_id": sessions[0]})
        tinker.later(service.tidy()).result(30)
        return [[id for id, _ in service.store.records(kind)] for kind in ("samplers", "sessions", "models")]

    assert after_days(6) == [sorted(samplers), sorted(sessions), sorted(models)]
    assert after_days(2) == [samplers[:1], sorted(sessions), sorted(models)]
    assert tinker.ask("POST", "/api/v1/session_heartbeat", {"session_id": sessions[2]}).status == 410
    kept = [samplers[:1], sorted(sessions[:2]), sorted(models[:2])]
    assert after_days(7) == kept
    assert {item["tinker_path"] for item in tinker.get("checkpoints")["checkpoints"]} >= {path}
    assert len(list(tinker.settings.state.glob("models/*"))) == 2
    assert tinker.ask("GET", "/crucible/status").json()["promises"] == 2  # of the one that is there


def test_tidying_goes_on_after_any_error(
    start: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed, again = threading.Event(), threading.Event()

    async def tidy(_: TinkerService) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("a bug")
        again.set()

    monkeypatch.setattr(TinkerService, "tidy", tidy)
    start(options={"tidy_every_s": 0.001})
    assert again.wait(10)
    assert "a bug" in caplog.text
