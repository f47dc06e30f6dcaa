"""Runs of several processes as a user has them: the same figures, lost processes, Ctrl-C, another number of processes.

Part of ``make prove``; the name keeps it out of ``make test``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import crucible_tiny
from crucible_ir import RunState
from crucible_kitchen.api import Crucible

STEPS = 20
SETTINGS = [
    f"model={crucible_tiny.model_path()}",
    f"data.path={crucible_tiny.data_path('chat_train')}",
    f"max_steps={STEPS}",
    "batch_size=8",
    "max_length=256",
    "save_every=4",
    "sample_prompts=0",
    "data.eval_limit=8",
]
pytestmark = pytest.mark.timeout(3600)
KINDS = {"lora": ["lora_rank=8"], "full": ["lora_rank=null", "learning_rate=1e-4"]}


def started(home: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "crucible_kitchen", *words, "--json"]
    env = {**os.environ, "CRUCIBLE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(home: Path, *words: str) -> dict[str, Any]:
    process = started(home, *words)
    output, said = process.communicate()
    assert process.returncode == 0, said.decode()
    record: dict[str, Any] = json.loads(output)
    return record


def losses(home: Path, run_id: str) -> list[float]:
    rows = Crucible(home).metrics(run_id).rows
    return [row.metrics["train_mean_nll"] for row in rows if "train_mean_nll" in row.metrics]


def weights(home: Path, run_id: str) -> dict[str, Any]:
    (path,) = (home / "runs" / run_id / "checkpoints" / "final").glob("*.safetensors")
    found: dict[str, Any] = load_file(path)
    return found


def assert_same(home: Path, one: str, other: str) -> float:
    left, right = losses(home, one), losses(home, other)
    assert len(left) == len(right) == STEPS
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-5)
    mine, theirs = weights(home, one), weights(home, other)
    assert list(mine) == list(theirs)
    for name, tensor in mine.items():
        np.testing.assert_allclose(tensor, theirs[name], rtol=0, atol=1e-5, err_msg=name)
    return float(np.abs(np.subtract(left, right)).max())


@pytest.fixture(scope="module", params=sorted(KINDS))
def alone(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, list[str]]:
    """A home with a run of one process, and the settings of its kind."""
    home = tmp_path_factory.mktemp(request.param)
    extra = KINDS[request.param]
    return home, finished(home, "run", "sl_basic", *SETTINGS, *extra)["run_id"], extra


def wait_for(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not check():
        assert time.monotonic() < deadline, "it did not happen within 600 s"
        time.sleep(0.1)


def begun(home: Path, extra: list[str]) -> tuple[subprocess.Popen[bytes], str]:
    """A run of two processes after its first checkpoint."""
    crucible = Crucible(home)
    known = {record.run_id for record in crucible.list().runs}
    process = started(home, "run", "sl_basic", *SETTINGS, *extra, "--nproc", "2")

    def saved() -> bool:
        new = [record.run_id for record in crucible.list().runs if record.run_id not in known]
        return bool(new) and any(e.type == "checkpoint.saved" for e in crucible.events(new[0]).events)

    wait_for(saved)
    (run_id,) = {record.run_id for record in crucible.list().runs} - known
    return process, run_id


def process_of(run_id: str, rank: str) -> int:
    """The process of that number that works on the run; torchrun's own has none."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environ, words = (path / "environ").read_bytes(), (path / "cmdline").read_bytes()
        except OSError:
            continue
        if run_id.encode() in words and f"RANK={rank}".encode() in environ.split(b"\0"):
            return int(path.name)
    raise AssertionError(f"no process {rank} of {run_id}")


def test_two_processes_train_as_one(alone: tuple[Path, str, list[str]]) -> None:
    home, one, extra = alone
    two = finished(home, "run", "sl_basic", *SETTINGS, *extra, "--nproc", "2")
    assert assert_same(home, one, two["run_id"]) <= 1e-5


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_process_interrupts_the_run_and_one_process_goes_on(
    alone: tuple[Path, str, list[str]], rank: str
) -> None:
    home, one, extra = alone
    process, run_id = begun(home, extra)
    os.kill(process_of(run_id, rank), signal.SIGKILL)
    assert process.wait(120) == 130
    assert Crucible(home).status(run_id).state is RunState.INTERRUPTED
    assert finished(home, "resume", run_id, "--nproc", "1")["state"] == "completed"
    assert_same(home, one, run_id)


def test_ctrl_c_interrupts_the_run_and_three_processes_go_on(alone: tuple[Path, str, list[str]]) -> None:
    home, one, extra = alone
    process, run_id = begun(home, extra)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert Crucible(home).events(run_id).events[-1].type == "run.interrupted"
    assert finished(home, "resume", run_id, "--nproc", "3")["state"] == "completed"
    resumed = [e.data for e in Crucible(home).events(run_id).events if e.type == "run.resumed"]
    assert (resumed[-1]["processes"], resumed[-1]["processes_before"]) == (3, 2)
    assert_same(home, one, run_id)


def test_weights_of_two_processes_are_exported(alone: tuple[Path, str, list[str]], tmp_path: Path) -> None:
    home, _, extra = alone
    two = finished(home, "run", "sl_basic", *SETTINGS, *extra, "--nproc", "2", "--detach")
    crucible = Crucible(home)
    wait_for(lambda: crucible.status(two["run_id"]).state is RunState.COMPLETED)
    crucible.export(two["run_id"], tmp_path / "model")
    assert (tmp_path / "model" / "config.json").is_file()
