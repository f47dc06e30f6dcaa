"""Off-policy distillation over a backend in numpy: the student learns what the teacher answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ConfigError, Experiment, NotFoundError, RunState
from crucible_kitchen.api import Crucible
from crucible_kitchen.reports.facts import held_out_gain
from crucible_kitchen.workflows.distillation import DistillationOptions, distillation
from crucible_testing.bench import plant_bigram, toy_experiment


@pytest.fixture
def crucible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crucible:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    return Crucible(tmp_path / "home")


def folder_of(crucible: Crucible, run_id: str) -> Path:
    return crucible.service.store.open(run_id).path


@pytest.fixture
def teacher(crucible: Crucible, tmp_path: Path) -> str:
    """Weights of a student of an earlier run."""
    record = crucible.run(toy_experiment(tmp_path, epochs=6))
    return str(folder_of(crucible, record.run_id) / "checkpoints" / "final")


def taught(
    tmp_path: Path, weights: str | None, *, renderer: str = "role_colon", **changes: Any
) -> Experiment:
    plain = toy_experiment(tmp_path, **changes)
    model = plain.model
    assert model is not None
    options = DistillationOptions(
        renderer="role_colon",
        teacher=model.uri or model.id,
        teacher_weights=weights,
        teacher_renderer=renderer,
        teacher_max_tokens=12,
        sample_prompts=0,
    )
    return plain.model_copy(update={"pipeline": distillation(options), "workflow": "distillation"})


def answers_of(folder: Path) -> list[Any]:
    _, *lines = (folder / "results" / "teacher_train.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_student_comes_closer_to_the_teachers_held_out_answers(
    crucible: Crucible, tmp_path: Path, teacher: str
) -> None:
    record = crucible.run(taught(tmp_path, teacher, epochs=6, eval_every=100))
    assert record.state is RunState.COMPLETED
    gain = held_out_gain(folder_of(crucible, record.run_id))
    assert gain is not None
    assert gain.difference.mean > 0
    assert gain.difference.interval.low > 0


def test_the_teacher_answers_the_prompts_and_its_answers_are_what_is_trained(
    crucible: Crucible, tmp_path: Path, teacher: str
) -> None:
    experiment = taught(tmp_path, teacher)
    record = crucible.run(experiment)
    rows = answers_of(folder_of(crucible, record.run_id))
    assert experiment.dataset is not None
    given = [json.loads(line) for line in Path(experiment.dataset.id).read_text().splitlines()]
    asked = {json.dumps(row["messages"][:-1]) for row in given}
    assert {json.dumps(row["messages"][:-1]) for row in rows} <= asked
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)
    assert any(row["messages"] not in [other["messages"] for other in given] for row in rows)


def test_a_resumed_run_trains_on_the_same_answers_and_ends_the_same(
    crucible: Crucible, tmp_path: Path, teacher: str
) -> None:
    experiment = taught(tmp_path, teacher, epochs=2, save_every=1)
    whole = crucible.run(experiment)

    def stop(what: str, data: Any) -> None:
        if what == "checkpoint.saved" and data["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="was interrupted"):
        Crucible(crucible.service.home.root, listeners=(stop,)).run(experiment)
    broken = crucible.list(limit=1).runs[0]
    first = answers_of(folder_of(crucible, broken.run_id))
    resumed = crucible.resume(broken.run_id)
    assert answers_of(folder_of(crucible, resumed.run_id)) == first
    assert [row.metrics for row in crucible.metrics(resumed.run_id).rows] == [
        row.metrics for row in crucible.metrics(whole.run_id).rows
    ]


def test_a_teacher_without_weights_of_its_own_is_the_base_model(crucible: Crucible, tmp_path: Path) -> None:
    assert crucible.run(taught(tmp_path, None)).state is RunState.COMPLETED


def test_missing_weights_and_an_unknown_renderer_are_named_before_anything_runs(
    crucible: Crucible, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="no-such-weights"):
        crucible.plan(taught(tmp_path, str(tmp_path / "no-such-weights")))
    with pytest.raises(ConfigError, match=r"teacher_renderer|renderer.*did you mean 'role_colon'"):
        crucible.plan(taught(tmp_path, None, renderer="role_colom"))


def test_other_sampling_gives_other_answers(crucible: Crucible, tmp_path: Path, teacher: str) -> None:
    first = crucible.run(taught(tmp_path, teacher))
    other = taught(tmp_path, teacher)
    second = crucible.run(other.model_copy(update={"seed": other.seed + 1}))
    assert answers_of(folder_of(crucible, first.run_id)) != answers_of(folder_of(crucible, second.run_id))
