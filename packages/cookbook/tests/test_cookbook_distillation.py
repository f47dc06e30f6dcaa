"""The distillation recipe: upstream's defaults, one source or several, refusals, and whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crucible_cookbook.bundled import bundled_data, bundled_model
from crucible_cookbook.recipes.distillation import Distillation, DistillationConfig
from crucible_datasets import LocalDatasetStore
from crucible_ir import AdapterError, BackendRef, ConfigError, Experiment, RunState, StageDef
from crucible_kitchen.api import Crucible
from crucible_kitchen.reports.facts import held_out_gains
from crucible_testing.backend import write_bigram_model
from crucible_testing.bench import BIGRAM, chat_rows, plant_bigram, write_chats
from crucible_testing.hub_problems import deepmath_rows

ON = {"mode": "on_policy"}
UPSTREAM: dict[str, dict[str, Any]] = {
    "on_policy": {
        "model": "Qwen/Qwen3.5-9B-Base",
        "lora_rank": 128,
        "teacher": "Qwen/Qwen3.5-9B",
        "dataset": "deepmath",
        "group_size": 4,
        "groups_per_batch": 1024,
        "learning_rate": 1e-4,
        "lr_schedule": "constant",
        "max_tokens": 4096,
        "temperature": 1.0,
        "kl_penalty_coef": 1.0,
        "kl_discount_factor": 0.0,
        "num_substeps": 1,
        "loss": "importance_sampling",
        "loss_config": {},
        "compute_post_kl": False,
        "eval_every": 20,
        "save_every": 20,
        "max_steps": None,
    },
    "off_policy": {
        "lora_rank": 32,
        "lr_schedule": "constant",
        "n_teacher_targets": 20,
        "batch_size": 64,
        "save_every": 10,
        "eval_every": 20,
        "max_steps": None,
    },
}
"""Defaults of upstream's commands, under our names."""


def stages_of(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Options of the stages of the top sequence."""
    return {node.name: dict(node.options) for node in experiment.pipeline if isinstance(node, StageDef)}


def test_a_prompt_of_deepmath_needs_no_answer(tmp_path: Path) -> None:
    """Upstream asks every question; an empty ``final_answer`` leaves a problem that cannot be judged, no bad prompt."""
    rows = deepmath_rows()
    assert any(not row["final_answer"] for row in rows)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ref = Distillation().parse({**ON, "model": "m", "teacher": "m"}).dataset
    assert ref is not None
    found = LocalDatasetStore().load(ref.model_copy(update={"id": str(path)}))
    assert [row["problem"] for row in found.rows] == [row["question"] for row in rows]


# --- settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(UPSTREAM))
def test_the_defaults_are_upstreams(mode: str) -> None:
    config = DistillationConfig.parse({"mode": mode})
    assert {name: getattr(config, name) for name in UPSTREAM[mode]} == UPSTREAM[mode]


def test_a_further_source_has_upstreams_number_of_prompts() -> None:
    more = [{"dataset": "tulu3", "teacher": "Qwen/Qwen3.5-397B-A17B"}]
    assert DistillationConfig.parse({**ON, "more": more}).more[0].groups_per_batch == 512


def test_prompts_are_upstreams_in_the_order_of_their_rows() -> None:
    experiment = Distillation().parse({**ON, "more": [{"dataset": "tulu3", "teacher": "org/other"}]})
    assert experiment.dataset is not None
    assert (experiment.dataset.id, experiment.dataset.shuffle_seed) == ("zwhe99/DeepMath-103K", None)
    stages = stages_of(experiment)
    (more,) = stages["load_sources"]["more"]
    assert (more["dataset"]["id"], more["dataset"]["shuffle_seed"]) == ("allenai/tulu-3-sft-mixture", None)
    assert [stages["load_sources"]["name"], more["name"]] == ["deepmath", "tulu3"]
    asked = stages["build_prompt_groups"]["sources"]
    assert [(one["env"], one["env_options"], one["groups_per_batch"]) for one in asked] == [
        ("prompts", {}, 1024),
        ("prompts", {"turn": "first"}, 512),
    ]
    assert experiment.training is not None
    assert experiment.training.batch_size == 1536
    assert [one["model"] for one in stages["load_teachers"]["teachers"]] == ["Qwen/Qwen3.5-9B", "org/other"]


def test_sums_and_problems_are_asked_as_math_rl_asks_them() -> None:
    sums = Distillation().parse({**ON, "dataset": "tiny", "env": "arithmetic"})
    assert sums.dataset is not None
    assert sums.eval_dataset is not None
    assert sums.dataset.id == str(bundled_data("arithmetic_train.jsonl"))
    assert sums.eval_dataset.id == str(bundled_data("arithmetic_test.jsonl"))
    assert stages_of(sums)["build_prompt_groups"]["sources"][0]["env_options"] == {"fewshot": False}
    problems = Distillation().parse({**ON, "dataset": "gsm8k", "env": "math", "data": {"limit": 7}})
    assert problems.dataset is not None
    assert (problems.dataset.id, problems.dataset.config, problems.dataset.limit) == (
        "openai/gsm8k",
        "main",
        7,
    )
    assert stages_of(problems)["build_prompt_groups"]["sources"][0]["env_options"] == {"fewshot": True}
    judged = [node.name for node in problems.pipeline if isinstance(node, StageDef)]
    assert "evaluate_rollouts" in judged
    plain = Distillation().parse({**ON, "dataset": "no_robots"})
    assert "evaluate_rollouts" not in stages_of(plain)
    assert "evaluate_teacher_kl" in stages_of(plain)


def test_the_bundled_chats_are_what_tiny_means_without_an_environment() -> None:
    experiment = Distillation().parse({**ON, "dataset": "tiny"})
    assert experiment.dataset is not None
    assert experiment.dataset.id == str(bundled_data("chat_train.jsonl"))


def test_paths_become_absolute_and_sources_get_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_chats(tmp_path / "a.jsonl", chat_rows(8))
    write_chats(tmp_path / "b" / "a.jsonl", chat_rows(8))
    settings = {
        "dataset": "a.jsonl",
        "teacher": "tiny",
        "teacher_weights": "runs/final",
        "more": [{"dataset": "b/a.jsonl", "teacher": "tiny"}, {"dataset": "b/a.jsonl", "teacher": "tiny"}],
    }
    for mode in UPSTREAM:
        stages = stages_of(Distillation().parse({**settings, "mode": mode}))
        sources = stages["load_sources"]
        names = [sources["name"], *(one["name"] for one in sources["more"])]
        assert len(set(names)) == 3
        assert sources["more"][0]["dataset"]["id"] == str(tmp_path / "b" / "a.jsonl")
        assert stages["load_teachers"]["teachers"][0] == stages["load_teachers"]["teachers"][0] | {
            "model": str(bundled_model()),
            "weights": str(tmp_path / "runs" / "final"),
        }


def test_what_was_parsed_can_be_parsed_again() -> None:
    for mode in UPSTREAM:
        given = {"mode": mode, "more": [{"dataset": "tulu3", "teacher": "org/other"}]}
        config = DistillationConfig.parse(given)
        assert DistillationConfig.parse(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({**ON, "batch_size": 3}, "batch_size: does nothing with mode=on_policy"),
        ({**ON, "n_teacher_targets": 3}, "n_teacher_targets: does nothing with mode=on_policy"),
        ({**ON, "teacher_renderer": "qwen3"}, "teacher_renderer: does nothing with mode=on_policy"),
        ({"group_size": 3}, "group_size: does nothing with mode=off_policy"),
        ({"env": "math"}, "env: does nothing with mode=off_policy"),
        (
            {"answers": "given", "teacher_max_tokens": 9},
            "teacher_max_tokens: does nothing with answers=given",
        ),
        ({"answers": "given", "n_teacher_targets": 0}, "leaves nothing for a teacher to do"),
        ({"weight": 2.0}, "weight: does nothing without more sources"),
        ({**ON, "eval_temperature": 0.0}, "eval_temperature: does nothing with env=prompts"),
        ({"mode": "on_polici"}, r"mode: .*did you mean 'on_policy'"),
        ({**ON, "kl_penalty_coef": 0.0}, "kl_penalty_coef"),
        ({**ON, "more": [{"dataset": "tulu3"}]}, r"more\[0\]\.teacher: missing"),
        ({**ON, "more": [{"teacher": "tiny"}]}, r"more\[0\]\.dataset"),
        (
            {**ON, "more": [{"dataset": "tulu3", "teacher": "tiny", "weight": 2.0}]},
            r"more\[0\]\.weight: does nothing with mode=on_policy",
        ),
        ({**ON, "group_sise": 3}, "did you mean 'group_size'"),
        (
            {"data": {"path": "a/b"}, "more": [{"dataset": "no_robots", "teacher": "tiny"}]},
            "a further source has held-out rows, and the first has none",
        ),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Distillation().parse(settings)


def test_an_unknown_environment_is_named() -> None:
    with pytest.raises(AdapterError, match="did you mean 'arithmetic'"):
        Distillation().parse({**ON, "env": "aritmetic", "dataset": "tiny"})


# --- runs ------------------------------------------------------------------------------------------------------


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
            "teacher": str(write_bigram_model(tmp_path / "teacher", seed=1)),
            "renderer": "role_colon",
            "dataset": write_chats(tmp_path / "chats.jsonl", chat_rows(20)),
            "data": {"test_size": 4},
            "learning_rate": 0.1,
            "lora_rank": None,
        },
    }


@pytest.mark.parametrize(
    "settings",
    [
        {**ON, "groups_per_batch": 4, "group_size": 2, "max_tokens": 3},
        {**ON, "groups_per_batch": 4, "group_size": 2, "max_tokens": 3, "stream_minibatches": 2},
        {"batch_size": 4, "answers": "given", "sample_max_tokens": 4},
        {"batch_size": 4, "n_teacher_targets": 0, "teacher_renderer": "role_colon", "teacher_max_tokens": 3},
    ],
    ids=["on policy", "streamed", "soft targets", "answers"],
)
def test_the_recipe_runs_in_every_mode(
    tmp_path: Path, bigram: dict[str, Any], settings: dict[str, Any]
) -> None:
    crucible = Crucible(tmp_path / "home")
    record = crucible.run("distillation", config=bigram["config"] | settings, manifest=bigram["manifest"])
    assert record.state is RunState.COMPLETED
    assert record.total_steps == 4
    measured = "test/nll" if settings.get("n_teacher_targets") == 0 else "test/teacher_kl"
    assert measured in record.metrics


def test_prompts_of_sums_are_judged_and_taught(tmp_path: Path, bigram: dict[str, Any]) -> None:
    config = bigram["config"] | {
        **ON,
        "env": "arithmetic",
        "dataset": "tiny",
        "data": {"limit": 4, "eval_limit": 5},
    }
    config |= {"groups_per_batch": 2, "group_size": 2, "max_tokens": 3, "eval_every": 1}
    crucible = Crucible(tmp_path / "home")
    record = crucible.run("distillation", config=config, manifest=bigram["manifest"])
    folder = crucible.service.store.open(record.run_id).path
    for name in ("teacher_kl", "accuracy", "reward"):
        assert len(sorted((folder / "results").glob(f"{name}_[0-9]*.jsonl"))) == 3
    assert {"test/teacher_kl", "test/env/all/correct"} <= set(record.metrics)


def test_prompts_of_problems_are_judged_by_the_grader_and_chats_beside_them_are_not(
    tmp_path: Path, bigram: dict[str, Any]
) -> None:
    problems = tmp_path / "problems.jsonl"
    rows = [{"problem": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(4)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = bigram["config"] | {
        **ON,
        "env": "math",
        "dataset": str(problems),
        "env_options": {"fewshot": False},
    }
    config |= {"data": {"test_size": 2}, "groups_per_batch": 1, "group_size": 2, "max_tokens": 3}
    chats = {"dataset": bigram["config"]["dataset"], "data": {"test_size": 3}, "teacher": config["model"]}
    config |= {"more": [{**chats, "groups_per_batch": 1}], "eval_every": 2}
    crucible = Crucible(tmp_path / "home")
    record = crucible.run("distillation", config=config, manifest=bigram["manifest"])
    assert record.total_steps == 2
    folder = crucible.service.store.open(record.run_id).path
    counted = {
        name: len((folder / "results" / f"{name}_000000.jsonl").read_text().splitlines())
        for name in ("teacher_kl", "accuracy", "reward")
    }
    assert counted == {"teacher_kl": 5, "accuracy": 2, "reward": 2}
    row = crucible.metrics(record.run_id).rows[0].metrics
    assert row["env/problems/correct"] == 0.0
    assert "env/chats/correct" not in row
    assert row["teacher_kl/dataset_1"] == 0.0


TINY: dict[str, Any] = {
    "model": "tiny",
    "teacher": "tiny",
    "dtype": "float32",
    "lora_rank": 8,
    "learning_rate": 1e-3,
    "max_steps": 2,
}
OF_TINY = {
    "on policy": {
        **ON,
        **{"env": "arithmetic", "dataset": "tiny", "groups_per_batch": 4, "group_size": 2, "max_tokens": 5},
        **{"data": {"eval_limit": 6}, "eval_temperature": 0.0, "save_every": 1},
    },
    "off policy": {
        **{"dataset": "tiny", "answers": "given", "n_teacher_targets": 6, "batch_size": 4, "max_length": 96},
        **{"data": {"eval_limit": 4}, "sample_prompts": 0, "save_every": 1},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", OF_TINY.values(), ids=list(OF_TINY))
def test_the_bundled_model_is_its_own_teacher_and_two_runs_are_one(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    crucible = Crucible(tmp_path / "home")
    made = Distillation().parse(TINY | settings)
    made = made.model_copy(update={"backend": BackendRef(options={"training_backend": {"num_threads": 1}})})
    first = crucible.run(made)
    rows = [(row.step, row.metrics) for row in crucible.metrics(first.run_id).rows]
    soft = "n_teacher_targets" in settings
    # before training the teacher is the student; of six likeliest tokens it is not all that the student gives
    assert rows[0][1]["teacher_kl"] == pytest.approx(0.0, abs=1.0 if soft else 1e-4)
    second = crucible.run(made)
    assert [(row.step, row.metrics) for row in crucible.metrics(second.run_id).rows] == rows

    def stop(what: str, data: Any) -> None:
        if what == "checkpoint.saved" and data["step"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="was interrupted"):
        Crucible(tmp_path / "home", listeners=(stop,)).run(made)
    resumed = crucible.resume(crucible.list(limit=1).runs[0].run_id)
    assert [(row.step, row.metrics) for row in crucible.metrics(resumed.run_id).rows] == rows
    folders = [crucible.service.store.open(one.run_id).path for one in (first, resumed)]
    digests = [
        json.loads((folder / "checkpoints" / "final" / "manifest.json").read_text())["digest"]
        for folder in folders
    ]
    assert digests[0] == digests[1]
    assert "teacher_kl" in {gain.measure.prefix for gain in held_out_gains(folders[0])}
