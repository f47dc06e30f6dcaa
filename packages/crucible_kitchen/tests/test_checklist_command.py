"""What the command prints is JSON to the letter, and nobody who looks at a run can break it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crucible_ir import Experiment, RunState
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.output import print_json
from crucible_kitchen.cli.progress import LineProgress
from crucible_kitchen.runs.attempt import InterruptedRun


def test_figures_that_are_no_numbers_are_words_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"metrics": {"loss": math.nan, "norm": math.inf, "lr": 1e-4}, "state": RunState.FAILED})

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    printed = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert printed == {"metrics": {"loss": "NaN", "norm": "Infinity", "lr": 1e-4}, "state": "failed"}


def test_a_reader_of_the_progress_that_goes_away_does_not_fail_the_run(
    home: Path, probe: Path, experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as pipe, monkeypatch.context() as piped:
        piped.setattr(sys, "stderr", pipe)
        with LineProgress() as progress:
            record = Crucible(home, listeners=(progress,)).run(experiment())
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # what is left in the buffer goes nowhere
    assert record.state is RunState.COMPLETED


def test_the_python_interface_works_where_an_event_loop_is_running(
    home: Path, probe: Path, experiment: Callable[..., Experiment]
) -> None:
    async def notebook() -> RunState:
        crucible = Crucible(home)
        crucible.plan(experiment())
        return crucible.run(experiment()).state

    assert asyncio.run(notebook()) is RunState.COMPLETED


def test_ctrl_c_in_a_notebook_leaves_a_resumable_run(
    home: Path, probe: Path, experiment: Callable[..., Experiment]
) -> None:
    def listen(what: str, data: object) -> None:
        if what == "checkpoint.saved":
            os.kill(os.getpid(), signal.SIGINT)

    async def notebook() -> None:
        Crucible(home, listeners=(listen,)).run(experiment(hold_at=1))

    loop = asyncio.new_event_loop()  # like a notebook's, it leaves SIGINT to Python
    with contextlib.closing(loop), pytest.raises(InterruptedRun):
        loop.run_until_complete(notebook())
    crucible = Crucible(home)
    assert crucible.status("last").state is RunState.INTERRUPTED
    (home / "runs" / "released").touch()
    assert crucible.resume("last").state is RunState.COMPLETED
