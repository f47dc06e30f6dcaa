"""What the command prints is JSON to the letter, and nobody who looks at a run can break it."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crucible_ir import Experiment, RunState
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.output import print_json
from crucible_kitchen.cli.progress import LineProgress


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
