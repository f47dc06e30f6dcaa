"""The Tinker adapter before a server whose answers fail: what is tried again, what never is, and what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ConfigError, ServiceError
from crucible_kitchen.adapters.tinker_backend import TinkerBackend
from crucible_testing.backend import BigramBackend
from crucible_testing.contracts.training import make_datum
from crucible_testing.faulty_http import Fault
from crucible_testing.gateway import MODEL
from crucible_train.ports import TrainingSpec
from crucible_train.types import AdamParams, LoraConfig, ModelInput, SamplingParams

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the SDK's own

Connect = Callable[..., TinkerBackend]
DATA = [make_datum([3, 4, 5, 6, 7])]
PROMPT, PARAMS = ModelInput.from_ints([1, 2, 3]), SamplingParams(max_tokens=4, seed=3, stop=[])
LOST = [
    pytest.param(Fault(status=500, after=True), id="500 after it was done"),
    pytest.param(Fault(after=True), id="hung up after it was done"),
    pytest.param(Fault(status=429, headers={"retry-after": "1"}), id="429"),
    pytest.param(Fault(status=408), id="408"),
    pytest.param(Fault(), id="hung up before"),
]


@pytest.fixture(scope="module")
def engine() -> BigramBackend:
    return BigramBackend()


@pytest.fixture(scope="module")
def server(serve_anywhere: Callable[..., Any], engine: BigramBackend) -> Any:
    return serve_anywhere(engine)


def submitted(engine: BigramBackend, call: str) -> int:
    return sum(line.startswith(f"submit {call} ") for line in engine.journal)


def spec_of(folder: Path) -> TrainingSpec:
    return TrainingSpec(base_model=MODEL, lora=LoraConfig(rank=4), seed=7, checkpoint_dir=folder / "state")


@pytest.mark.parametrize("fault", LOST)
def test_a_step_whose_answer_is_lost_is_done_once(
    server: Any, engine: BigramBackend, connect: Connect, tmp_path: Path, fault: Fault
) -> None:
    client = asyncio.run(connect(server).create_training_client(spec_of(tmp_path)))
    before = {call: submitted(engine, call) for call in ("forward_backward", "optim_step", "save_state")}
    server.http.faults = {"/forward_backward": [fault], "/optim_step": [fault], "/save_weights": [fault]}
    client.forward_backward(DATA)
    client.optim_step(AdamParams(learning_rate=0.1)).result()
    client.save_state("one").result()
    assert all(faults == [] for faults in server.http.faults.values())
    assert {call: submitted(engine, call) - count for call, count in before.items()} == dict.fromkeys(
        before, 1
    )


@pytest.mark.parametrize("fault", LOST)
def test_a_sample_whose_answer_is_lost_comes_all_the_same(
    server: Any, connect: Connect, fault: Fault
) -> None:
    backend = connect(server, first_wait_s=0.0)
    sampler = asyncio.run(backend.create_sampling_client(MODEL))
    wanted = sampler.sample(PROMPT, PARAMS).result()
    server.http.faults = {"/asample": [fault]}
    assert sampler.sample(PROMPT, PARAMS).result() == wanted
    assert server.http.faults == {"/asample": []}


BROKEN = [
    pytest.param(Fault(status=200, body=b"<html>not what was asked for"), id="no JSON"),
    pytest.param(Fault(status=200, body=b'{"some": "thing else"}'), id="other JSON"),
]


@pytest.mark.parametrize("fault", BROKEN)
def test_an_answer_that_cannot_be_read_is_an_error_of_the_service(
    server: Any, connect: Connect, tmp_path: Path, fault: Fault
) -> None:
    backend = connect(server, first_wait_s=0.0, attempts=2)
    sampler = asyncio.run(backend.create_sampling_client(MODEL))
    client = asyncio.run(backend.create_training_client(spec_of(tmp_path)))
    server.http.faults = {"/asample": [fault] * 2, "/forward_backward": [fault]}
    with pytest.raises(ServiceError, match="answer cannot be read") as sampling:
        sampler.sample(PROMPT, PARAMS).result(60)
    with pytest.raises(ServiceError, match="answer cannot be read") as training:
        client.forward_backward(DATA).result(60)
    assert not training.value.retryable
    server.http.faults = {"/get_server_capabilities": [fault]}
    with pytest.raises(ServiceError, match="answer cannot be read"):
        connect(server).capabilities()
    assert sampling.value.retryable
    server.http.faults = {"/asample": [fault]}
    assert sampler.sample(PROMPT, PARAMS).result(60).sequences


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (Fault(status=401), ConfigError, "refused the key"),
        (Fault(status=422, body=b'{"detail": "no such thing"}'), ConfigError, "no such thing"),
    ],
)
def test_what_trying_again_does_not_mend_is_told_at_once(
    server: Any, connect: Connect, fault: Fault, kind: type[Exception], said: str
) -> None:
    backend = connect(server, first_wait_s=0.0)
    sampler = asyncio.run(backend.create_sampling_client(MODEL))
    server.http.faults = {"/asample": [fault] * 2}
    with pytest.raises(kind, match=said):
        sampler.sample(PROMPT, PARAMS).result(60)
    assert server.http.faults == {"/asample": [fault]}


def test_capabilities_are_asked_for_again_where_the_service_is_busy(server: Any, connect: Connect) -> None:
    busy = Fault(status=429, headers={"retry-after": "0.2"})
    server.http.faults = {"/get_server_capabilities": [busy, Fault(status=500), Fault()]}
    assert connect(server).capabilities().sampling
    assert server.http.faults == {"/get_server_capabilities": []}
