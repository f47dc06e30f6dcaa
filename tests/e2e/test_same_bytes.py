"""Every recipe on the bundled model: one seed gives the same rows and weights, byte for byte, resumed or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from crucible_cookbook.lessons import LESSONS, Lesson, experiment
from crucible_ir import CrucibleError
from crucible_kitchen.api import Crucible

pytestmark = pytest.mark.slow

SMALL: dict[str, dict[str, Any]] = {
    "sl_basic": {"data": {"path": "tiny", "limit": 48, "eval_limit": 16}, "sample_prompts": 1},
    "chat_sl": {"limit": 256, "eval_limit": 16, "sample_prompts": 1},
    "preference": {"data": {"path": "tiny", "limit": 48, "eval_limit": 16}},
    "math_rl": {"groups_per_batch": 8, "group_size": 4, "eval_limit": 16},
    "distillation": {"groups_per_batch": 8, "data": {"limit": 64, "eval_limit": 16}},
}
"""What makes a lesson short enough to be run twice."""


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.recipe)
def test_the_same_seed_gives_the_same_bytes_also_to_a_run_that_was_resumed(
    tmp_path: Path,
    lesson: Lesson,
    rows: Callable[[Path], list[dict[str, Any]]],
    weights: Callable[[Path], str],
) -> None:
    crucible = Crucible(tmp_path)
    steps = {"max_steps": 3, "eval_every": 3, "save_every": 2}
    earlier: dict[str, Path] = {}
    for name in lesson.after:
        (needed,) = (one for one in LESSONS if one.recipe == name)
        record = crucible.run(experiment(needed, earlier, **SMALL[name], **steps))
        earlier[name] = tmp_path / "runs" / record.run_id

    def run(seed: int) -> tuple[list[dict[str, Any]], str]:
        record = crucible.run(experiment(lesson, earlier, **SMALL[lesson.recipe], **steps, seed=seed))
        folder = tmp_path / "runs" / record.run_id
        return rows(folder), weights(folder)

    first, second, other = run(0), run(0), run(1)
    assert first == second
    assert other[1] != first[1]
    assert len(first[0]) >= 3

    def stop(what: str, data: Mapping[str, Any]) -> None:
        if what == "checkpoint.saved" and data["step"] == 2:
            raise KeyboardInterrupt

    made = experiment(lesson, earlier, **SMALL[lesson.recipe], **steps, seed=0)
    with pytest.raises(CrucibleError, match="was interrupted"):
        Crucible(tmp_path, listeners=(stop,)).run(made)
    broken = crucible.list(limit=1).runs[0]
    resumed = crucible.resume(broken.run_id)
    folder = tmp_path / "runs" / resumed.run_id
    assert (rows(folder), weights(folder)) == first
