"""Sampling through the server: the engine's numbers, which weights, and what is not given."""

import asyncio
import math
from typing import Any

import numpy as np
import pytest

from crucible_gateway.tinker.schema import messages
from crucible_testing.backend import BigramBackend
from crucible_testing.gateway import MODEL, Tinker
from crucible_train.types import ModelInput, SampleResponse, SamplingParams

PROMPT = [3, 1, 4, 1]
ROWS = [[1, 2, 3, 4], [4, 4, 4]]


def sampler_of(tinker: Tinker, session: str | None = None, *, number: int = 0, **source: Any) -> str:
    body = {
        "session_id": session or tinker.session(),
        "sampling_session_seq_id": number,
        **(source or {"base_model": MODEL}),
    }
    return str(tinker.post("create_sampling_session", body)["sampling_session_id"])


def unnamed_sampler(tinker: Tinker, model: str, seq: int, *, number: int = 0, kind: str = "snapshot") -> str:
    body = {"model_id": model, "seq_id": seq, "sampling_session_seq_id": number, "kind": kind}
    promise = tinker.post("save_weights_for_sampler", body)["request_id"]
    return str(tinker.result(promise)["sampling_session_id"])


def asked(tinker: Tinker, sampler: str, seq: int, **more: Any) -> Any:
    params = {"max_tokens": 5, "seed": 11, **more.pop("params", {})}
    body = {
        "sampling_session_id": sampler,
        "seq_id": seq,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": more.pop("prompt", PROMPT)}]},
        "sampling_params": params,
        **more,
    }
    return tinker.result(tinker.post("asample", body)["request_id"])


def logprobs(message: Any) -> list[float]:
    return np.frombuffer(message.prompt_logprobs, dtype=np.float32).tolist()


def tokens(message: Any) -> list[list[int]]:
    return [np.frombuffer(sequence.tokens, dtype=np.int32).tolist() for sequence in message.sequences]


def engine(source: str, params: SamplingParams, num_samples: int) -> SampleResponse:
    async def run() -> SampleResponse:
        client = await BigramBackend().create_sampling_client(source)
        return await client.sample(
            ModelInput.from_ints(PROMPT), params, num_samples=num_samples, include_prompt_logprobs=True
        )

    return asyncio.run(run())


@pytest.mark.parametrize(
    "params",
    [
        {"max_tokens": 6, "seed": 5},
        {"max_tokens": 6, "seed": 5, "temperature": 0.5, "top_k": 3, "top_p": 0.9},
        {"max_tokens": 9, "seed": 6, "stop": [7, 8, 9]},
        {"max_tokens": 9, "seed": 6, "stop": "a"},
        {"max_tokens": 9, "seed": 6, "stop": ["a", "b"]},
        {"max_tokens": 9, "seed": 6, "stop": []},
        {"max_tokens": 3, "temperature": 0.0},
    ],
)
def test_samples_are_those_of_the_engine_itself(tinker: Tinker, params: dict[str, Any]) -> None:
    message = asked(
        tinker, sampler_of(tinker), 0, params={"seed": None, **params}, num_samples=3, prompt_logprobs=True
    )
    wanted = engine(tinker.settings.models[0].source, SamplingParams(**params), 3)
    assert tokens(message) == [list(sequence.tokens) for sequence in wanted.sequences]
    stop = messages().STOP_REASON_STOP
    assert [s.stop_reason == stop for s in message.sequences] == [
        s.stop_reason == "stop" for s in wanted.sequences
    ]
    first, *others = logprobs(message)
    assert math.isnan(first)
    assert others == np.asarray(wanted.prompt_logprobs[1:], dtype=np.float32).tolist()


def test_log_probabilities_of_the_trainer_and_the_sampler_agree(tinker: Tinker) -> None:
    model = tinker.model()
    tinker.train(model, 1, ROWS)
    tinker.step(model, 2)
    row = [1, 2, 3, 4]
    scored = tinker.result(tinker.train(model, 3, [row], forward_only=True))
    trained = np.frombuffer(scored.loss_fn_outputs[0].fields["logprobs"].data, dtype=np.float32)
    sampled = asked(tinker, unnamed_sampler(tinker, model, 4), 0, prompt=row, prompt_logprobs=True)
    np.testing.assert_allclose(logprobs(sampled)[1:], trained, rtol=1e-6)


def test_only_the_last_positions_are_scored_where_that_is_asked(tinker: Tinker) -> None:
    sampler = sampler_of(tinker)
    whole = logprobs(asked(tinker, sampler, 0, prompt_logprobs=True))
    last = logprobs(asked(tinker, sampler, 1, prompt_logprobs=True, prompt_logprobs_last_n=2))
    assert [math.isnan(value) for value in last] == [True, True, False, False]
    assert last[2:] == whole[2:]


def test_the_likeliest_tokens_come_with_every_position_but_the_first(tinker: Tinker) -> None:
    top = asked(tinker, sampler_of(tinker), 0, topk_prompt_logprobs=3).topk_prompt_logprobs
    values = np.frombuffer(top.logprobs, dtype=np.float32).reshape(top.length, top.k)
    assert values.shape == (len(PROMPT), 3)
    assert (values[0] == -99999.0).all()
    assert (np.diff(values[1:], axis=1) <= 0).all()


def test_a_snapshot_stays_and_samplers_in_flight_follow(tinker: Tinker) -> None:
    model = tinker.model()
    snapshot = unnamed_sampler(tinker, model, 1, number=0)
    flying = unnamed_sampler(tinker, model, 2, number=1, kind="inflight")
    before = [logprobs(asked(tinker, s, 0, prompt_logprobs=True))[1:] for s in (snapshot, flying)]
    assert before[0] == before[1]
    tinker.train(model, 3, ROWS)
    tinker.step(model, 4)
    newer = unnamed_sampler(tinker, model, 5, number=2, kind="inflight")
    assert logprobs(asked(tinker, snapshot, 1, prompt_logprobs=True))[1:] == before[0]
    after = logprobs(asked(tinker, flying, 1, prompt_logprobs=True))[1:]
    assert after != before[1]
    assert after == logprobs(asked(tinker, newer, 0, prompt_logprobs=True))[1:]


def test_saved_weights_are_sampled_from_by_their_path(tinker: Tinker) -> None:
    model = tinker.model()
    tinker.train(model, 1, ROWS)
    tinker.step(model, 2)
    saved = tinker.post("save_weights_for_sampler", {"model_id": model, "seq_id": 3, "path": "s"})
    path = tinker.result(saved["request_id"])["path"]
    assert path == f"tinker://{model}/sampler_weights/s"
    by_path = sampler_of(tinker, model_path=path)
    same = unnamed_sampler(tinker, model, 4)
    assert (
        logprobs(asked(tinker, by_path, 0, prompt_logprobs=True))[1:]
        == (logprobs(asked(tinker, same, 0, prompt_logprobs=True))[1:])
    )
    assert tinker.get(f"samplers/{by_path}") == {
        "sampler_id": by_path,
        "base_model": MODEL,
        "model_path": path,
    }


def test_a_request_that_comes_twice_is_sampled_once(tinker: Tinker) -> None:
    sampler = sampler_of(tinker)
    first = asked(tinker, sampler, 0, params={"seed": None})
    assert tokens(asked(tinker, sampler, 0, params={"seed": None})) == tokens(first)
    assert tinker.backend.journal.count("submit sample 0") == 1
    assert "submit sample 1" not in tinker.backend.journal


def test_without_a_bound_a_continuation_fills_the_models_length(tinker: Tinker) -> None:
    message = asked(tinker, sampler_of(tinker), 0, params={"max_tokens": None, "stop": []})
    assert len(tokens(message)[0]) == 64 - len(PROMPT)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"topk_sample_logprobs": 2}, "topk_sample_logprobs"),
        ({"prompt_alt_tokens_k": 1}, "prompt_alt_tokens_k"),
        ({"target_prompt_logprobs": {"data": [1]}}, "target_prompt_logprobs"),
        ({"record_stability_info": True}, "stable_reinforce"),
        ({"prompt_logprobs": True, "prompt_logprobs_last_n": 4}, "prompt_logprobs_last_n"),
        ({"params": {"temperature": -1}}, "temperature"),
        ({"params": {"top_p": 0}}, "top_p"),
        ({"params": {"max_tokens": 0}}, "max_tokens"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1] * 64, "params": {"max_tokens": None}}, "takes 64"),
    ],
)
def test_what_is_not_given_is_refused_by_name(tinker: Tinker, more: dict[str, Any], said: str) -> None:
    told = asked(tinker, sampler_of(tinker), 0, **more)
    assert told["category"] == "user"
    assert said in told["error"]


def test_more_samples_than_a_request_may_have_are_refused_before_anything_is_made(tinker: Tinker) -> None:
    body = {"sampling_session_id": sampler_of(tinker), "seq_id": 0, "prompt": {"chunks": []}}
    told = tinker.ask("POST", "/api/v1/asample", {**body, "num_samples": 30_000})
    assert (told.status, told.json()["category"]) == (422, "user")
    assert all(part in told.json()["error"] for part in ("num_samples = 30000", "ask for 1024 at most"))
    assert len(tinker.app.state.service.promises) == 0


@pytest.mark.parametrize(
    "source",
    [{"base_model": "Big/gran"}, {"model_path": "tinker://x/weights/y"}, {"model_path": "y"}, {"other": 1}],
)
def test_a_sampler_over_nothing_is_refused(tinker: Tinker, source: dict[str, Any]) -> None:
    body = {"session_id": tinker.session(), "sampling_session_seq_id": 0, **source}
    answer = tinker.ask("POST", "/api/v1/create_sampling_session", body)
    assert answer.status in (404, 422)
    assert answer.json()["category"] == "user"


def test_few_samplers_are_held_open_and_all_can_be_used(start: Any) -> None:
    tinker = start(limits={"open_samplers": 2})
    model = tinker.model()
    samplers = [unnamed_sampler(tinker, model, seq, number=seq) for seq in range(1, 6)]
    for turn in range(2):
        for sampler in samplers:
            assert len(tokens(asked(tinker, sampler, turn))) == 1
    assert tinker.ask("GET", "/crucible/status").json()["samplers_open"] <= 2


def test_old_unnamed_weights_go(start: Any) -> None:
    tinker = start(limits={"kept_samplers": 2})
    model = tinker.model()
    samplers = [unnamed_sampler(tinker, model, seq, number=seq) for seq in range(1, 5)]
    body = {"sampling_session_id": samplers[0], "seq_id": 0, "prompt": {"chunks": []}}
    assert tinker.ask("POST", "/api/v1/asample", body).status == 404
    assert len(tokens(asked(tinker, samplers[-2], 0))) == 1
    folders = [path.name for path in tinker.settings.state.glob("models/*/sampler-*")]
    assert len(folders) == 2


def test_processes_that_sample_for_one_session_get_numbers_of_their_own(tinker: Tinker) -> None:
    sampler = sampler_of(tinker)
    joined = [
        tinker.post("join_sampling_session", {"sampling_session_id": sampler})["client_counter"]
        for _ in range(2)
    ]
    assert joined == [1, 2]
    message = asked(tinker, sampler, 1_000_000_000)
    target = {"type": "sampling_session", "sampling_session_id": sampler, "cloned_sampler_id": 1}
    polled = tinker.post("retrieve_futures", {"target": target, "prev_cursor": 0})
    assert [item["request_id"] for item in polled["completions"]] == [f"{sampler}:1000000000"]
    assert len(tokens(message)) == 1


def test_a_poller_is_told_each_ending_once_and_failures_as_such(start: Any) -> None:
    tinker = start(limits={"poll_s": 0.01})
    sampler = sampler_of(tinker)
    target = {"type": "sampling_session", "sampling_session_id": sampler}
    asked(tinker, sampler, 0)
    asked(tinker, sampler, 1, topk_sample_logprobs=1)
    first = tinker.post("retrieve_futures", {"target": target, "prev_cursor": 0})
    assert [item["state"] for item in first["completions"]] == ["finished", "failed"]
    again = tinker.post("retrieve_futures", {"target": target, "prev_cursor": first["cursor"]})
    assert again == {"completions": [], "cursor": first["cursor"]}
    asked(tinker, sampler, 2)
    third = tinker.post("retrieve_futures", {"target": target, "prev_cursor": first["cursor"]})
    assert [item["request_id"] for item in third["completions"]] == [f"{sampler}:2"]


def test_a_poller_of_a_server_that_is_no_more_is_told_everything_anew(tinker: Tinker) -> None:
    sampler = sampler_of(tinker)
    asked(tinker, sampler, 0)
    target = {"type": "sampling_session", "sampling_session_id": sampler}
    told = tinker.post("retrieve_futures", {"target": target, "prev_cursor": 17, "timeout": 0})
    assert len(told["completions"]) == 1


def test_cancelled_samples_are_forgotten(tinker: Tinker) -> None:
    sampler = sampler_of(tinker)
    asked(tinker, sampler, 0)
    tinker.post("cancel_future", {"request_id": f"{sampler}:0"})
    gone = tinker.ask("POST", "/api/v1/retrieve_future", {"request_id": f"{sampler}:0"})
    assert gone.status == 410
