"""The embedded default: every recipe really trains, a measured gain each, and none where nothing is learned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from crucible_cookbook.lessons import LESSONS, Lesson, experiment
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.main import main
from crucible_kitchen.reports.facts import held_out_gains

pytestmark = pytest.mark.slow

MEASURES = {
    "sl_basic": {"held-out loss"},
    "chat_sl": {"held-out loss"},
    "preference": {"held-out preference accuracy"},
    "math_rl": {"held-out accuracy", "held-out reward"},
    "distillation": {"held-out distance from the teacher", "held-out accuracy", "held-out reward"},
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the quickstart printed, by recipe."""
    home = tmp_path_factory.mktemp("quickstart")
    body = home / "body.json"
    with pytest.MonkeyPatch.context() as patch, body.open("w") as stream:
        patch.setattr("sys.stdout", stream)
        assert main(["quickstart", "--json", "--home", str(home)]) == 0
    found = {lesson["recipe"]: lesson for lesson in json.loads(body.read_text())["lessons"]}
    if "PROOF_FIGURES" in os.environ:
        figures = {name: {"seconds": one["seconds"], "gains": one["gains"]} for name, one in found.items()}
        Path(os.environ["PROOF_FIGURES"]).write_text(json.dumps(figures))
    return found


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.recipe)
def test_every_recipe_shows_gains_whose_intervals_lie_above_zero(
    shown: dict[str, Any], lesson: Lesson
) -> None:
    found = shown[lesson.recipe]
    assert found["run"]["state"] == "completed"
    assert Path(found["report"]).is_file()
    assert {gain["measure"] for gain in found["gains"]} == MEASURES[lesson.recipe]
    for gain in found["gains"]:
        assert gain["examples"] >= 200
        assert gain["low"] > 0


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.recipe)
def test_a_learning_rate_of_zero_shows_no_gain(tmp_path: Path, shown: dict[str, Any], lesson: Lesson) -> None:
    earlier = {name: Path(one["report"]).parent for name, one in shown.items()}
    still = {"learning_rate": 0.0, "max_steps": 2, "eval_every": 2}
    record = Crucible(tmp_path).run(experiment(lesson, earlier, **still))
    gains = held_out_gains(tmp_path / "runs" / record.run_id)
    assert {gain.measure.label for gain in gains} == MEASURES[lesson.recipe]
    for gain in gains:
        assert gain.difference.n >= 200
        assert gain.difference.interval.low <= 0 <= gain.difference.interval.high
        assert gain.before == gain.after
