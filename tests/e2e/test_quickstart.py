"""The embedded default: every recipe really trains, a measured gain each, and none where nothing is learned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from crucible_cookbook.lessons import LESSONS, Lesson, experiment
from crucible_kitchen.api import Crucible
from crucible_kitchen.reports.facts import held_out_gains

pytestmark = pytest.mark.slow

MEASURES = {
    "sl_basic": {"held-out loss"},
    "chat_sl": {"held-out loss"},
    "preference": {"held-out preference accuracy"},
    "math_rl": {"held-out accuracy", "held-out reward"},
    "distillation": {"held-out distance from the teacher", "held-out accuracy", "held-out reward"},
}


@pytest.mark.timeout(1500)
def test_every_recipe_shows_gains_whose_intervals_lie_above_zero(crucible: Any) -> None:
    """All five under ``make prove``; otherwise the longest chain of two, to keep the tests within their time."""
    whole = "PROOF_FIGURES" in os.environ
    process = crucible.start("quickstart", "--json", *(() if whole else ("--only", "distillation")))
    out, err = process.communicate()
    assert process.returncode == 0, err
    shown = {lesson["recipe"]: lesson for lesson in json.loads(out)["lessons"]}
    if whole:
        figures = {name: {key: one[key] for key in ("seconds", "gains")} for name, one in shown.items()}
        Path(os.environ["PROOF_FIGURES"]).write_text(json.dumps(figures))
    assert set(shown) == (set(MEASURES) if whole else {"chat_sl", "distillation"})
    for name, found in shown.items():
        measures = MEASURES[name]
        assert found["run"]["state"] == "completed"
        assert Path(found["report"]).is_file()
        assert {gain["measure"] for gain in found["gains"]} == measures
        for gain in found["gains"]:
            assert gain["examples"] >= 200
            assert gain["low"] > 0


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.recipe)
def test_a_learning_rate_of_zero_shows_no_gain(tmp_path: Path, lesson: Lesson) -> None:
    crucible, earlier = Crucible(tmp_path), dict[str, Path]()
    for name in lesson.after:
        (needed,) = (one for one in LESSONS if one.recipe == name)
        record = crucible.run(experiment(needed, earlier, max_steps=10, test_size=16, eval_every=10))
        earlier[name] = tmp_path / "runs" / record.run_id
    still = {"learning_rate": 0.0, "max_steps": 2, "eval_every": 2}
    record = crucible.run(experiment(lesson, earlier, **still))
    gains = held_out_gains(tmp_path / "runs" / record.run_id)
    assert {gain.measure.label for gain in gains} == MEASURES[lesson.recipe]
    for gain in gains:
        assert gain.difference.n >= 200
        assert gain.difference.interval.low <= 0 <= gain.difference.interval.high
        assert gain.before == gain.after
