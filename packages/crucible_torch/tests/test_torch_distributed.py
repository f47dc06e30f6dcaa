"""Several processes equal one: losses, norms, weights, checkpoints, and what is told when something is wrong.

With ``PROOF_FIGURES`` (``make prove``) they take 20 steps under the command ``torchrun`` and resume in three; else 5
steps in processes that torchrun's own launcher forks from this one, which spares them imports.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from crucible_ir import ConfigError, ConflictError, CrucibleError, DataError
from crucible_torch import LocalBackend
from crucible_torch.distributed.messages import Message, data_of, error_of, told, with_data
from crucible_torch.distributed.sharding import balanced
from crucible_torch.distributed.world import World
from crucible_train.types import Datum, ModelInput, TensorData

WHOLE = "PROOF_FIGURES" in os.environ
SCRIPT = Path(__file__).with_name("session_of_processes.py")
KINDS = ("lora", "full")
WITHIN = 1e-5

# Warnings of torch about its own use of what it deprecates, and of Python about forking where threads are.
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"
)


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("session_of_processes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Sessions:
    """One process's session, two's that also goes on from it, and one's (and three's) that goes on from two's."""

    one: Path
    two: Path
    back: tuple[Path, ...]

    @staticmethod
    def found(folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / "found.json").read_text())
        return found


def run(processes: int, folder: Path, model: Path, others: Path | None, *, fresh: bool) -> Path:
    """The session in so many processes."""
    folder.mkdir()
    settings = {
        "folder": str(folder),
        "model": str(model),
        "others": None if others is None else str(others),
        "fresh": fresh,
        "steps": 20 if WHOLE else 5,
        "longest": 60,
        "rate": 1e-4,
        "micro_batch_tokens": 100,
    }
    if processes == 1:
        script().main(settings)
    elif WHOLE:
        given = folder / "settings.json"
        given.write_text(json.dumps(settings))
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
        ]
        subprocess.run([*torchrun, SCRIPT, given], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    else:
        forked(processes, settings)
    return folder


def forked(processes: int, settings: dict[str, Any]) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    handlers = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    }
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="test",
        max_restarts=0,
        monitor_interval=0.05,
        start_method="fork",
    )
    try:
        elastic_launch(config, script().main)(settings)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.fixture(scope="module")
def sessions(qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    root = tmp_path_factory.mktemp("processes")
    one = run(1, root / "one", qwen3, None, fresh=True)
    two = run(2, root / "two", qwen3, one, fresh=True)
    back = [run(n, root / f"back-{n}", qwen3, two, fresh=False) for n in ((1, 3) if WHOLE else (1,))]
    return Sessions(one, two, tuple(back))


def assert_same_rows(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    assert len(some) == len(others) > 0
    for mine, theirs in zip(some, others, strict=True):
        assert mine["kind"] == theirs["kind"]
        assert mine["metrics"].keys() == theirs["metrics"].keys()
        np.testing.assert_allclose(mine["norm"], theirs["norm"], rtol=WITHIN)
        for name, value in mine["metrics"].items():
            np.testing.assert_allclose(value, theirs["metrics"][name], rtol=WITHIN, atol=WITHIN)
        for left, right in zip(mine["logprobs"], theirs["logprobs"], strict=True):
            np.testing.assert_allclose(left, right, rtol=WITHIN, atol=WITHIN)


def assert_same_files(some: Path, others: Path) -> None:
    assert {path.name for path in some.iterdir()} == {path.name for path in others.iterdir()}
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (some, others)]
    assert manifests[0].keys() == manifests[1].keys()
    assert manifests[0]["content"] == manifests[1]["content"]
    assert json.loads((some / "state.json").read_text()) == json.loads((others / "state.json").read_text())
    for path in some.glob("*.safetensors"):
        mine, theirs = load_file(path), load_file(others / path.name)
        assert list(mine) == list(theirs)
        assert manifests[0]["files"][path.name]["size"] == manifests[1]["files"][path.name]["size"]
        for name, tensor in mine.items():
            assert tensor.dtype == theirs[name].dtype
            np.testing.assert_allclose(tensor, theirs[name], atol=WITHIN, rtol=0, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_losses_norms_and_logprobs_of_one(sessions: Sessions, kind: str) -> None:
    one, two = sessions.found(sessions.one)[kind], sessions.found(sessions.two)[kind]
    assert_same_rows(one["rows"], two["rows"])
    assert {row["kind"] for row in one["rows"]} == set(script().KINDS)
    for left, right in zip(one["scored"], two["scored"], strict=True):
        np.testing.assert_allclose(left, right, rtol=WITHIN, atol=WITHIN)
    assert one["sampled"] == two["sampled"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["middle", "end", "final"])
def test_two_processes_write_the_files_of_one(sessions: Sessions, kind: str, name: str) -> None:
    assert_same_files(sessions.one / kind / name, sessions.two / kind / name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_in_another_number_of_processes(sessions: Sessions, kind: str) -> None:
    for folder, whole in ((sessions.two, sessions.one), *((back, sessions.two) for back in sessions.back)):
        rows = sessions.found(folder)[f"{kind}-resumed"]["rows"]
        assert_same_rows(rows, sessions.found(whole)[kind]["rows"][-len(rows) :])
        assert_same_weights(folder / f"{kind}-resumed" / "final", whole / kind / "final")


def assert_same_weights(some: Path, others: Path) -> None:
    (mine,), (theirs,) = some.glob("*.safetensors"), others.glob("*.safetensors")
    left, right = load_file(mine), load_file(theirs)
    for name, tensor in left.items():
        np.testing.assert_allclose(tensor, right[name], atol=WITHIN, rtol=0, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_any_process_is_told_as_by_one_and_the_next_call_goes_through(
    sessions: Sessions, kind: str
) -> None:
    one, two = sessions.found(sessions.one)[kind], sessions.found(sessions.two)[kind]
    assert one["faults"] == two["faults"]
    for place in range(8):
        assert f"data[{place}]: the loss of the datum is" in two["faults"][f"place {place}"]
    assert two["faults"]["custom"] == "ValueError: of the caller's own"
    assert "no gradients to apply" in two["faults"]["no gradients"]
    np.testing.assert_allclose(one["after"]["loss:sum"], two["after"]["loss:sum"], rtol=WITHIN)


# --- the parts -----------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 500), max_size=40), st.integers(1, 8))
def test_shares_hold_every_example_once_and_differ_by_no_more_than_the_longest(
    lengths: list[int], parts: int
) -> None:
    shares = balanced(lengths, parts)
    assert len(shares) == parts
    assert sorted(place for share in shares for place in share) == list(range(len(lengths)))
    assert all(share == sorted(share) for share in shares)
    sums = [sum(lengths[place] for place in share) for share in shares]
    assert max(sums) - min(sums) <= max(lengths, default=0)


def test_longest_first_to_the_lightest() -> None:
    assert balanced([3, 9, 4, 4], 2) == [[1], [0, 2, 3]]


def test_datums_travel_whole() -> None:
    inputs = {
        "target_tokens": TensorData.of([[4, 5], [6, 7]]),
        "weights": TensorData.of([[0.5, 0.0], [-1.0, 2.0]]),
    }
    datum = Datum(ModelInput.from_ints([1, 2]), inputs)
    message = Message.from_bytes(with_data({"op": "x", "config": {"a": 0.1}}, [(5, datum)]).to_bytes())
    assert message.values == {"op": "x", "config": {"a": 0.1}, "places": [5]}
    ((place, back),) = data_of(message)
    assert place == 5
    assert back.model_input.to_ints() == [1, 2]
    for name, tensor in inputs.items():
        assert back.loss_fn_inputs[name].dtype == tensor.dtype
        np.testing.assert_array_equal(back.loss_fn_inputs[name].array, tensor.array)


def test_errors_travel_with_their_kind_and_sentence() -> None:
    error = DataError(what="a", where="b", remedy="c")
    back = error_of(told(error), 3)
    assert (type(back), str(back)) == (DataError, "b: a; c")
    foreign = error_of(told(KeyError("x")), 3)
    assert "KeyError" in str(foreign)
    assert "process 3" in str(foreign)
    assert type(error_of({"kind": "nearest", "what": "no class of errors"}, 1)) is CrucibleError


def test_a_process_that_torchrun_did_not_start_is_alone() -> None:
    assert World.from_environ({"RANK": "1", "WORLD_SIZE": "2"}).alone
    found = World.from_environ(
        {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    )
    assert (found.rank, found.size, found.leads) == (1, 2, False)
    with pytest.raises(ConfigError, match="WORLD_SIZE = 'two'"):
        World.from_environ({"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "two"})


def test_a_process_alone_has_nobody_to_follow(backend: LocalBackend) -> None:
    assert not backend.follows
    with pytest.raises(ConflictError, match="nobody to follow"):
        backend.follow()
