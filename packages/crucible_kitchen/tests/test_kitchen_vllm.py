"""The sampling port over a vLLM server, against a stand-in that speaks its API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from crucible_ir import ConfigError, CrucibleError, NotFoundError, ServiceError
from crucible_kitchen.adapters.vllm_adapters import VllmAdapters
from crucible_kitchen.adapters.vllm_sampling import VllmSampler
from crucible_kitchen.adapters.vllm_server import VllmServer
from crucible_testing.contracts.sampling import SamplingClientContract
from crucible_testing.vllm import StandIn, serving
from crucible_train.ports import SamplingClient
from crucible_train.types import ModelInput, SamplingParams

PROMPT = ModelInput.from_ints([5, 9, 12])
FREE = SamplingParams(max_tokens=4, seed=1, stop=[])


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with serving() as found:
        yield found


@pytest.fixture
def server(stand_in: StandIn) -> Iterator[VllmServer]:
    found = VllmServer(stand_in.url)
    yield found
    found.close()


@pytest.fixture
def sampler(server: VllmServer) -> Iterator[SamplingClient]:
    found = VllmSampler(server, "base")
    yield found
    asyncio.run(found.close())


class TestVllmSampler(SamplingClientContract):
    agreement = 1e-9

    @pytest.fixture
    def sampler(self, server: VllmServer) -> Iterator[SamplingClient]:
        found = VllmSampler(server, "base")
        yield found
        asyncio.run(found.close())


# --- what is sent ------------------------------------------------------------------------------------------


def test_each_sample_has_a_seed_of_its_own_that_no_neighbouring_seed_gives(
    stand_in: StandIn, sampler: SamplingClient
) -> None:
    for seed in range(4):
        sampler.sample(PROMPT, SamplingParams(max_tokens=1, seed=seed), num_samples=4).result()
    seeds = [body["seed"] for body in stand_in.bodies]
    assert len(set(seeds)) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("stop", "sent"),
    [
        (None, {}),
        ([], {"ignore_eos": True, "stop": [], "stop_token_ids": []}),
        ("ab", {"ignore_eos": False, "stop": ["ab"], "stop_token_ids": []}),
        ([7, 8], {"ignore_eos": False, "stop": [], "stop_token_ids": [7, 8]}),
    ],
)
def test_stop_conditions_are_those_of_the_port(
    stand_in: StandIn, sampler: SamplingClient, stop: list[int] | str | None, sent: dict[str, object]
) -> None:
    sampler.sample(PROMPT, SamplingParams(max_tokens=1, stop=stop)).result()
    body = stand_in.bodies[0]
    assert {name: body[name] for name in ("ignore_eos", "stop", "stop_token_ids") if name in body} == sent
    assert body["prompt"] == [5, 9, 12]
    assert body["return_token_ids"] is True


# --- adapters ----------------------------------------------------------------------------------------------


def test_adapters_have_names_of_their_content_and_old_ones_are_unloaded(
    stand_in: StandIn, server: VllmServer
) -> None:
    adapters = VllmAdapters(server, stem="run", keep=2)
    names = [adapters.serve(PurePosixPath(f"/a/{n}"), f"sha256:{n:064x}"[:80]) for n in (0, 0)]
    assert names[0] == names[1]
    digests = [f"sha256:{n}{'0' * 63}" for n in (1, 2, 3)]
    first, second, third = (
        adapters.serve(PurePosixPath(f"/a/{n}"), digest) for n, digest in enumerate(digests)
    )
    assert len({first, second, third}) == 3
    assert stand_in.adapters == {second: "/a/1", third: "/a/2"}
    tuned = VllmSampler(server, third)
    assert tuned.sample(PROMPT, FREE).result().sequences
    assert stand_in.bodies[-1]["model"] == third
    asyncio.run(tuned.close())
    adapters.clear()
    assert stand_in.adapters == {}


def test_an_adapter_that_another_program_loaded_is_taken_as_it_is(
    stand_in: StandIn, server: VllmServer
) -> None:
    server.load_adapter("x-1", "/a")
    server.load_adapter("x-1", "/a")
    server.unload_adapter("x-1")
    server.unload_adapter("x-1")
    assert stand_in.adapters == {}


def test_a_server_that_loads_no_adapters_is_told_how_to(stand_in: StandIn, server: VllmServer) -> None:
    stand_in.loads_adapters = False
    with pytest.raises(ConfigError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        VllmAdapters(server).serve(PurePosixPath("/a"), "sha256:1")


# --- faults ------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_served_is_named_beside_those_that_are(server: VllmServer) -> None:
    with pytest.raises(NotFoundError, match=r"'other'.*base"):
        VllmSampler(server, "other")


def test_a_server_that_is_not_there_is_a_service_error_that_may_pass() -> None:
    with pytest.raises(ServiceError, match="cannot be reached") as caught:
        VllmSampler(VllmServer("http://127.0.0.1:9", retries=0), "base")
    assert caught.value.retryable


CHOICE = {"index": 0, "finish_reason": "length", "token_ids": [3], "logprobs": {"token_logprobs": [-1.0]}}


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (500, {"error": "boom"}, ServiceError, "status 500"),
        (429, {"error": "busy"}, ServiceError, "status 429"),
        (401, {"error": "key"}, ConfigError, "api_key"),
        (400, {"error": {"message": "max_logprobs"}}, ConfigError, "max_logprobs"),
        (404, {"error": {"message": "gone"}}, NotFoundError, "gone"),
        (200, {"choices": [{"index": 0, "finish_reason": "length", "text": "x"}]}, ServiceError, "token_ids"),
        (200, {"choices": []}, ServiceError, "0 choices"),
        (200, "nonsense", ServiceError, "documents"),
        (200, {"choices": [CHOICE | {"logprobs": None}]}, ServiceError, "no log-probability"),
        (200, {"choices": [CHOICE | {"finish_reason": "abort"}]}, ServiceError, "abort"),
    ],
)
def test_an_answer_that_is_no_answer_becomes_an_error_that_says_so(
    stand_in: StandIn,
    sampler: SamplingClient,
    status: int,
    body: object,
    kind: type[CrucibleError],
    said: str,
) -> None:
    stand_in.instead = [(status, body)]
    with pytest.raises(kind, match=said):
        sampler.sample(PROMPT, FREE).result()
    assert sampler.sample(PROMPT, FREE).result().sequences


def test_a_prompt_that_was_not_scored_whole_is_an_error(stand_in: StandIn, sampler: SamplingClient) -> None:
    stand_in.instead = [(200, {"choices": [CHOICE | {"prompt_logprobs": [None, {"9": {"logprob": -1.0}}]}]})]
    with pytest.raises(ServiceError, match="every token of the prompt"):
        sampler.compute_logprobs(PROMPT).result()


def test_more_tokens_than_the_server_has_positions_are_refused_before_it_is_asked(
    stand_in: StandIn, sampler: SamplingClient
) -> None:
    with pytest.raises(ConfigError, match="3 tokens and 62 new ones.*64 positions"):
        sampler.sample(PROMPT, SamplingParams(max_tokens=62))
    assert stand_in.bodies == []
