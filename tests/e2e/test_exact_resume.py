"""A3: the same config gives the same bytes; a killed run goes on exactly."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CRUCIBLE_KILLS", "5"))
"""How often a run is killed; more by `make prove`."""


def wait_for(true: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Wait until ``true()``; False when the process ended first."""
    while process.poll() is None:
        if true():
            return True
        try:
            process.wait(timeout=0.005)
        except subprocess.TimeoutExpired:
            continue
    return False


def wait_for_rows(run_dir: Path, count: int, process: subprocess.Popen[str]) -> bool:
    """Wait until the run has logged ``count`` rows; False when it ended first."""
    path = run_dir / "metrics.jsonl"
    return wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, process)


def resumes(run_dir: Path) -> int:
    """How often the run went on."""
    return (run_dir / "events.jsonl").read_bytes().count(b'"run.resumed"')


def wait_for_run(home: Path, process: subprocess.Popen[str]) -> Path:
    """The folder of the run that ``process`` made."""
    while process.poll() is None:
        found = list((home / "runs").glob("run_*"))
        if found:
            return found[0]
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(process.communicate()[1])


def test_the_same_config_twice_gives_the_same_metrics_and_weights(
    crucible: Any, small: tuple[str, ...], rows: Callable[[Path], Any], weights: Callable[[Path], str]
) -> None:
    for _ in range(2):
        code, _, err = crucible("run", "sl_basic", *small, "save_every=5", "-q")
        assert code == 0, err
    first, second = crucible.run_dirs()
    assert len(rows(first)) == 13
    assert rows(first) == rows(second)
    assert weights(first) == weights(second)


def test_a_run_killed_at_random_steps_ends_like_an_uninterrupted_one(
    crucible: Any,
    small: tuple[str, ...],
    rows: Callable[[Path], Any],
    weights: Callable[[Path], str],
    tmp_path: Path,
) -> None:
    settings = (*small, "save_every=2", "eval_every=5")
    code, _, err = crucible("run", "sl_basic", *settings, "-q")
    assert code == 0, err
    (whole,) = crucible.run_dirs()

    crucible.home = tmp_path / "killed"
    points = sorted(int(p) for p in np.random.default_rng(20261120).integers(1, 12, size=KILLS))
    process = crucible.start("run", "sl_basic", *settings, "-q")
    run_dir = wait_for_run(crucible.home, process)
    for kills, point in enumerate(points):
        assert wait_for(lambda times=kills: resumes(run_dir) == times, process), process.communicate()[1]
        assert wait_for_rows(run_dir, point, process), process.communicate()[1]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = crucible.start("resume", run_dir.name, "-q")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert rows(run_dir) == rows(whole)
    assert weights(run_dir) == weights(whole)
    assert resumes(run_dir) == KILLS


def test_ctrl_c_leaves_a_run_that_can_be_resumed(
    crucible: Any, small: tuple[str, ...], rows: Callable[[Path], Any]
) -> None:
    process = crucible.start("run", "sl_basic", *small, "save_every=3", "-q")
    run_dir = wait_for_run(crucible.home, process)
    assert wait_for_rows(run_dir, 4, process), process.communicate()[1]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert f"crucible resume {run_dir.name}" in err
    assert crucible.json("show", run_dir.name)["run"]["state"] == "interrupted"
    code, _, err = crucible("resume", run_dir.name, "-q")
    assert code == 0, err
    assert [row["step"] for row in rows(run_dir)] == list(range(13))


def test_another_process_cancels_a_run(crucible: Any, small: tuple[str, ...]) -> None:
    process = crucible.start("run", "sl_basic", *small, "epochs=50", "-q")
    run_dir = wait_for_run(crucible.home, process)
    assert wait_for_rows(run_dir, 2, process), process.communicate()[1]
    code, _, err = crucible("cancel", run_dir.name)
    assert code == 0, err
    process.communicate()
    assert process.returncode == 130
    assert crucible.json("show", run_dir.name)["run"]["state"] == "cancelled"


def test_a_second_process_on_the_same_run_is_refused(crucible: Any, small: tuple[str, ...]) -> None:
    process = crucible.start("run", "sl_basic", *small, "epochs=50", "-q")
    run_dir = wait_for_run(crucible.home, process)
    assert wait_for_rows(run_dir, 1, process), process.communicate()[1]
    code, _, err = crucible("resume", run_dir.name)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert code == 7
    assert str(process.pid) in err
