"""Recipes run: over a fake engine in an instant, and against the flat loop with the real one."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_cookbook import quickstart as quick
from crucible_cookbook.bundled import bundled_data, bundled_model
from crucible_cookbook.lessons import LESSONS, experiment
from crucible_cookbook.loops.sl_loop import LoopConfig, sl_loop
from crucible_ir import ExitCode, Experiment, RunState
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.main import main
from crucible_testing.backend import write_bigram_model
from crucible_testing.bench import BIGRAM, chat_rows, plant_bigram, toy_experiment, write_chats


def one_lesson(monkeypatch: pytest.MonkeyPatch, made: Experiment) -> None:
    """A quickstart of one lesson, which runs ``made``."""
    monkeypatch.setattr(quick, "LESSONS", LESSONS[:1])
    monkeypatch.setattr(quick, "experiment", lambda lesson, earlier: made)


@pytest.fixture
def bigram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The manifest of the fake engine, and settings for a run of a few steps."""
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    manifest = tmp_path / "bigram.toml"
    manifest.write_text(
        f'profile = "bigram"\ndescription = "Fake engine"\nextends = "offline"\n'
        f'[ports.training_backend]\nadapter = "{BIGRAM}"\n'
    )
    return {
        "manifest": str(manifest),
        "config": {
            "model": str(write_bigram_model(tmp_path / "model")),
            "renderer": "role_colon",
            "batch_size": 4,
            "max_length": 64,
            "learning_rate": 0.2,
            "sample_max_tokens": 8,
        },
    }


def test_sl_basic_runs_on_a_file_with_held_out_rows(tmp_path: Path, bigram: dict[str, Any]) -> None:
    path = write_chats(tmp_path / "chats.jsonl", chat_rows(20))
    config = bigram["config"] | {"data": {"path": path, "test_size": 6}}
    crucible = Crucible(tmp_path / "home")
    record = crucible.run("sl_basic", config=config, manifest=bigram["manifest"])
    assert record.state is RunState.COMPLETED
    assert (record.recipe, record.total_steps) == ("sl_basic", 3)
    assert record.metrics["test/nll"] < 5.5
    loaded = [e.data for e in crucible.events(record.run_id).events if e.type == "dataset.loaded"]
    assert [(data["role"], data["rows"]) for data in loaded] == [("train", 14), ("held_out", 6)]


def test_training_and_held_out_rows_share_none(tmp_path: Path, bigram: dict[str, Any]) -> None:
    path = write_chats(tmp_path / "chats.jsonl", chat_rows(20))
    config = bigram["config"] | {"dataset": path, "test_size": 6, "sample_prompts": 6}
    crucible = Crucible(tmp_path / "home")
    record = crucible.run("chat_sl", config=config, manifest=bigram["manifest"])
    folder = crucible.service.store.open(record.run_id).path
    lines = (folder / "results" / "samples_000000.jsonl").read_text().splitlines()
    asked = {json.loads(line)["prompt"][0]["content"] for line in lines}
    first = np.random.default_rng(0).permutation(20)[:6]
    assert asked == {f"q{number}" for number in first}


@pytest.mark.parametrize(("rate", "code"), [(0.2, ExitCode.OK), (0.0, ExitCode.FAILED)])
def test_the_quickstart_is_well_only_where_something_was_learned(
    tmp_path: Path,
    bigram: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rate: float,
    code: ExitCode,
) -> None:
    made = toy_experiment(tmp_path / "toy", learning_rate=rate, eval_every=100)
    one_lesson(monkeypatch, made)
    home = ["--home", str(tmp_path / "home")]
    assert main(["quickstart", "-q", *home]) == code
    out = capsys.readouterr().out
    assert "  prompt q16" in out
    assert f"nats/token on 6 examples, gain {'' if rate else '0.000'}" in out
    assert f"  {'yes' if rate else 'NO '} sl_basic" in out
    assert ("note   sl_basic learned" in out) is bool(rate)
    assert "next   crucible runs" in out
    assert main(["quickstart", "--json", *home]) == code
    body = json.loads(capsys.readouterr().out)
    (lesson,) = body["lessons"]
    (gain,) = lesson["gains"]
    assert gain["examples"] == 6
    assert (gain["low"] > 0) is (code == ExitCode.OK)
    assert Path(lesson["report"]).is_file()


def test_where_crucible_is_not_on_the_path_the_quickstart_says_how_it_comes_there(
    tmp_path: Path,
    bigram: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one_lesson(monkeypatch, toy_experiment(tmp_path / "toy", eval_every=100))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    main(["quickstart", "-q", "--home", str(tmp_path / "home")])
    assert "first  . .venv/bin/activate" in capsys.readouterr().out
    command = tmp_path / "crucible"
    command.touch(mode=0o755)
    main(["quickstart", "-q", "--home", str(tmp_path / "home")])
    assert "first" not in capsys.readouterr().out


def test_every_lesson_is_its_recipe_on_the_bundled_model(tmp_path: Path) -> None:
    earlier = {lesson.recipe: tmp_path for lesson in LESSONS}
    for lesson in LESSONS:
        made = experiment(lesson, earlier)
        assert (made.id, made.recipe) == (f"quickstart_{lesson.recipe}", lesson.recipe)
        assert made.model is not None
        assert made.model.uri == str(bundled_model())
        changed = experiment(lesson, earlier, learning_rate=0.0)
        assert changed.training is not None
        assert changed.training.optimizer.learning_rate == 0


def test_a_lesson_that_is_not_there_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--only", "math_lr"]) == ExitCode.USAGE
    assert "did you mean 'math_rl'?" in capsys.readouterr().err


def test_one_lesson_brings_those_it_builds_on() -> None:
    for lesson in LESSONS:
        names = [one.recipe for one in quick.chosen(lesson.recipe)]
        assert names == [*lesson.after, lesson.recipe]


def test_the_quickstart_shows_progress(
    tmp_path: Path,
    bigram: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = toy_experiment(tmp_path / "toy", held_out=0)
    one_lesson(monkeypatch, made)
    assert main(["quickstart", "--home", str(tmp_path / "home")]) == ExitCode.FAILED
    captured = capsys.readouterr()
    assert "step 1/4" in captured.err
    assert "no held-out comparison" in captured.out


@pytest.mark.slow
def test_the_flat_loop_has_the_losses_of_the_recipe(tmp_path: Path) -> None:
    lines = bundled_data("chat_train").read_text("utf-8").splitlines(keepends=True)[:35]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    loop = LoopConfig(
        model=bundled_model(),
        data=path,
        max_length=96,
        batch_size=8,
        steps=9,
        learning_rate=5e-3,
        lora_rank=8,
    )
    told: list[tuple[int, float]] = []
    losses = asyncio.run(sl_loop(loop, lambda step, loss: told.append((step, loss))))
    crucible = Crucible(tmp_path / "home")
    config = {
        "model": "tiny",
        "data": {"path": str(path)},
        "max_length": 96,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "lora_rank": 8,
        "dtype": "float32",
        "save_every": 0,
    }
    record = crucible.run("sl_basic", config=config)
    recipe = [row.metrics["train_mean_nll"] for row in crucible.metrics(record.run_id).rows]
    assert len(losses) == 4
    assert told == list(enumerate(losses))
    assert losses == pytest.approx(recipe, abs=1e-5)
    assert losses[-1] < losses[0]
