"""math_rl names problems, environments and sizes as a user means them, and hands every setting on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crucible_cookbook.bundled import bundled_data
from crucible_cookbook.recipes.math_rl import MathRl
from crucible_ir import ConfigError, Experiment, IfDef, LoopDef, PipelineNode, StageDef


def stages_of(nodes: Sequence[PipelineNode]) -> dict[str, dict[str, Any]]:
    """Options of every stage, by label."""
    found: dict[str, dict[str, Any]] = {}
    for node in nodes:
        if isinstance(node, StageDef):
            found[node.label or node.name] = dict(node.options)
        elif isinstance(node, LoopDef | IfDef):
            found |= stages_of(node.body)
    return found


def made(**settings: Any) -> tuple[Experiment, dict[str, dict[str, Any]]]:
    experiment = MathRl().parse({"model": "org/model", **settings})
    return experiment, stages_of(experiment.pipeline)


def environment(**settings: Any) -> tuple[Any, ...]:
    """Environment, name under which it reports, whether an example stands first, and where the rows come from."""
    experiment, stages = made(**settings)
    building = stages["build_env_group"]
    options = building["env_options"]
    refs = [ref and ref.id for ref in (experiment.dataset, experiment.eval_dataset)]
    return building["env"], options.get("dataset_name"), options["fewshot"], *refs


def test_names_mean_upstreams_problems() -> None:
    gsm8k, math_500 = "openai/gsm8k", "HuggingFaceH4/MATH-500"
    assert environment(env="gsm8k") == ("math", "gsm8k", True, gsm8k, gsm8k)
    assert environment(env="math") == ("math", "math", True, "EleutherAI/hendrycks_math", math_500)
    assert environment(env="deepmath") == ("math", "deepmath", False, "zwhe99/DeepMath-103K", None)
    polaris = "POLARIS-Project/Polaris-Dataset-53K"
    assert environment(env="polaris") == ("math", "polaris", False, polaris, None)


def test_named_problems_may_be_read_from_a_copy(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("")
    folder, train, test = str(tmp_path), str(tmp_path / "train.jsonl"), str(tmp_path / "test.jsonl")
    assert environment(env="gsm8k", path=folder) == ("math", "gsm8k", True, folder, folder)
    assert environment(env="gsm8k", path=train) == ("math", "gsm8k", True, train, None)
    assert environment(env="gsm8k", path=train, eval_path=test) == ("math", "gsm8k", True, train, test)
    experiment, _ = made(env="gsm8k", path=folder)
    assert experiment.dataset is not None
    assert experiment.eval_dataset is not None
    assert (experiment.dataset.split, experiment.eval_dataset.split) == ("train", "test")
    assert (experiment.dataset.config, experiment.dataset.mapping) == (None, {"schema": "problem_hashes"})


def test_a_copy_of_the_held_out_problems_is_what_training_leaves_out() -> None:
    experiment, _ = made(env="math", eval_path="mine/math-500")
    assert experiment.dataset is not None
    assert experiment.dataset.mapping["exclude"]["dataset"]["id"] == "mine/math-500"


def test_sums_are_generated_or_bundled() -> None:
    assert environment() == ("arithmetic", None, True, None, None)
    files = [str(bundled_data(f"arithmetic_{role}.jsonl")) for role in ("train", "test")]
    assert environment(env="tiny") == ("arithmetic", None, False, *files)


def test_a_path_or_a_hub_id_is_problems_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("")
    assert environment(env=str(path)) == ("math", "problems", True, str(path), None)
    assert environment(env="some/problems") == ("math", "problems", True, "some/problems", None)


@pytest.mark.parametrize("env", ["arithmetic", "tiny", "gsm8k", "deepmath"])
def test_an_example_stands_first_where_it_was_asked_for(env: str) -> None:
    assert [environment(env=env, fewshot=wanted)[2] for wanted in (True, False)] == [True, False]


@pytest.mark.parametrize(
    ("settings", "evaluated"),
    [
        ({}, True),
        ({"held_out": 0}, False),
        ({"env": "tiny"}, True),
        ({"env": "gsm8k"}, True),
        ({"env": "polaris"}, False),
    ],
)
def test_what_has_held_out_problems_is_evaluated(settings: dict[str, Any], evaluated: bool) -> None:
    experiment, stages = made(**settings, eval_every=7)
    assert ("evaluate_rollouts" in stages, "final_evaluation" in stages) == (evaluated, evaluated)
    assert experiment.training is not None
    assert experiment.training.eval_every == (7 if evaluated else 0)


def test_settings_reach_the_training_and_the_stages() -> None:
    experiment, stages = made(
        groups_per_batch=3, group_size=5, loss="ppo", loss_config={"clip_low_threshold": 0.5}, learning_rate=0.5,
        max_tokens=9, temperature=0.7, max_steps_off_policy=2, on_error="drop", num_substeps=4, log_groups=6,
        kl_penalty_coef=0.1, kl_discount_factor=0.9, remove_constant_reward_groups=True, compute_post_kl=True,
        eval_temperature=0.0, n_batches=11, held_out=13,
    )  # fmt: skip
    training = experiment.training
    assert training is not None
    assert (training.batch_size, training.loss, training.loss_config, training.drop_last) == (
        3, "ppo", {"clip_low_threshold": 0.5}, False,
    )  # fmt: skip
    assert (training.optimizer.learning_rate, training.schedule.name) == (0.5, "constant")
    assert stages["build_env_group"] == {
        "env": "arithmetic",
        "env_options": {"fewshot": True, "n_batches": 11, "held_out": 13},
        "group_size": 5,
    }
    assert stages["open_rollouts"] == {
        "max_tokens": 9, "temperature": 0.7, "max_turns": None, "max_steps_off_policy": 2, "on_error": "drop",
    }  # fmt: skip
    assert stages["compute_advantages"] == {"remove_constant_reward_groups": True}
    assert stages["penalize_kl"] == {"coef": 0.1, "discount": 0.9}
    assert stages["split_updates"] == {"num_substeps": 4}
    assert stages["log_rollouts"] == {"groups": 6}
    assert stages["evaluate_rollouts"]["temperature"] == 0
    assert "measure_post_kl" in stages


def test_rows_are_limited_and_ordered_as_asked() -> None:
    experiment, _ = made(env="gsm8k", limit=50, eval_limit=7, shuffle_seed=3)
    train, held_out = experiment.dataset, experiment.eval_dataset
    assert train is not None
    assert held_out is not None
    assert (train.split, train.limit, train.shuffle_seed) == ("train", 50, 3)
    assert (held_out.split, held_out.limit, held_out.shuffle_seed) == ("test", 7, None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"env": "gsm8kk"}, "did you mean 'gsm8k'"),
        ({"env": "Arithmetic"}, "did you mean 'arithmetic'"),
        ({"env": "zzz"}, "names: arithmetic, tiny, gsm8k, math, deepmath, polaris"),
        ({"stream_minibatches": 2, "max_steps_off_policy": 1}, "exclude each other"),
        ({"group_size": 0, "groups_per_batch": 0}, "2 problems"),
    ],
)
def test_wrong_settings_are_one_configuration_error(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MathRl().parse({"model": "org/model", **settings})
