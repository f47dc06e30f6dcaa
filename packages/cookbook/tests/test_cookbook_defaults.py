"""Every setting of upstream's commands: ours with the same default, ours with another for a reason, or not ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from crucible_cookbook.recipes.chat_sl import ChatSlConfig
from crucible_cookbook.recipes.math_rl import MathRlConfig
from crucible_cookbook.recipes.preference import PreferenceConfig
from crucible_cookbook.recipes.sl_basic import SlBasicConfig

GOLDEN: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "recipe_defaults.json").read_text(encoding="utf-8")
)
CONFIGS = {
    "sl_basic": SlBasicConfig,
    "chat_sl": ChatSlConfig,
    "preference": PreferenceConfig,
    "math_rl": MathRlConfig,
}
OURS = {
    "model_name": "model",
    "renderer_name": "renderer",
    "num_epochs": "epochs",
    "loss_fn": "loss",
    "loss_fn_config": "loss_config",
    "stream_minibatch_config": "stream_minibatches",
    "model_name_for_tokenizer": "model",
}
"""Upstream's name of a setting → ours, where they are not called the same."""

DIFFERENT: dict[tuple[str, str], tuple[Any, str]] = {
    ("math_rl", "loss_fn"): ("importance_sampling", "`stable_reinforce` has no public formula"),
    ("math_rl", "loss_fn_config"): ({}, "no settings are an empty table"),
    ("math_rl", "stream_minibatch_config"): (0, "a number of parts; 0 waits for the whole batch"),
    ("math_rl", "max_steps_off_policy"): (0, "0 says that sampling never lags behind"),
    ("preference", "dataset"): (None, "the pairs stand under `data`, by default the same ones (HH-RLHF)"),
}
"""Where our default is another: ours, and why."""

NOT_OURS = {
    "a run has a folder of its own in the home": ("log_path", "behavior_if_log_dir_exists"),
    "the service is chosen by the manifest": ("base_url", "ttl_seconds", "async_periodic_saves"),
    "stores of metrics are chosen by the manifest": ("wandb_project", "wandb_name", "session_name"),
    "a run's weights are a folder, given as `model`": ("load_checkpoint_path",),
    "the recipe is named by the experiment": ("recipe_name",),
    "evaluations are stages of the pipeline": (
        "evaluator_builders",
        "infrequent_evaluator_builders",
        "infrequent_eval_every",
        "inline_evals",
    ),
    "every checkpoint can be resumed, and `save_every` alone says when": (
        "rolling_save_every",
        "rolling_ttl_seconds",
        "save_every_tokens",
        "save_every_seconds",
    ),
    "every stage is timed": ("enable_trace", "span_chart_every"),
    "the reference is the model that training starts from": ("reference_model_name",),
}
"""Why a setting of upstream's is none of ours."""
_NOT_OURS = {name: reason for reason, names in NOT_OURS.items() for name in names}


def verdict(recipe: str, name: str) -> str:
    """``equal``, the reason of an explained difference, or what is wrong."""
    mine = OURS.get(name, name)
    fields = type(CONFIGS[recipe]()).model_fields
    if name in _NOT_OURS:
        return _NOT_OURS[name] if mine not in fields else f"{recipe} has {mine}"
    if mine not in fields:
        return f"{recipe} has no {mine}, and no reason is given"
    ours = CONFIGS[recipe]().model_dump(mode="json")[mine]
    expected, reason = DIFFERENT.get((recipe, name), (GOLDEN[recipe][name], "equal"))
    return reason if ours == expected else f"{mine} is {ours!r} and not {expected!r}"


@pytest.mark.parametrize("recipe", CONFIGS)
def test_every_setting_of_upstream_has_our_default_or_a_reason(recipe: str) -> None:
    known = {"equal", *NOT_OURS, *(reason for _, reason in DIFFERENT.values())}
    found = {name: verdict(recipe, name) for name in GOLDEN[recipe]}
    assert {name: said for name, said in found.items() if said not in known} == {}


def test_every_reason_is_needed() -> None:
    """A difference that went away, or a name that upstream does not have, must leave the lists."""
    for recipe, name in DIFFERENT:
        assert GOLDEN[recipe][name] != DIFFERENT[recipe, name][0]
    everything = {name for recipe in CONFIGS for name in GOLDEN[recipe]}
    assert set(_NOT_OURS) <= everything
    assert set(OURS) <= everything


def test_the_page_shows_what_is_counted_and_why(pytestconfig: pytest.Config) -> None:
    page = (pytestconfig.rootpath / "docs" / "parity.md").read_text(encoding="utf-8")
    rows = []
    for recipe in CONFIGS:
        equal = sum(verdict(recipe, name) == "equal" for name in GOLDEN[recipe])
        cases = len(GOLDEN[recipe])
        rows.append(f"| `{recipe}` | {cases} | {equal} | {cases - equal} |")
    shown = re.search(r"<!-- settings: begin -->\n(.*?)<!-- settings: end -->", page, re.DOTALL)
    assert shown
    assert [line for line in shown[1].splitlines() if line.startswith("| `")] == rows, "\n".join(rows)
    for reason in (*NOT_OURS, *(reason for _, reason in DIFFERENT.values())):
        assert reason in " ".join(page.split()), reason
