"""Listed defects of recipes: settings that do nothing, defaults that are one machine's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from crucible_cookbook.recipes.chat_sl import ChatSl
from crucible_cookbook.recipes.distillation import Distillation
from crucible_cookbook.recipes.math_rl import MathRl
from crucible_cookbook.recipes.preference import Preference
from crucible_cookbook.recipes.sl_basic import SlBasic
from crucible_ir import ConfigError
from crucible_kitchen.plugins.discovery import discover
from crucible_kitchen.plugins.groups import RECIPES
from crucible_kitchen.recipes import Recipe

PLACED = {"model": "tiny", "seed": 1, "tags": ["a"], "baseline": "run_1_00000000", "name": "mine"}
HUB = {"data": {"path": "org/rows", "eval_split": "test"}}
TAUGHT = {**PLACED, **HUB, "teacher": "tiny"}
BASES: dict[type[Recipe[Any]], tuple[dict[str, Any], ...]] = {
    SlBasic: ({**PLACED, **HUB},),
    ChatSl: ({**PLACED, "dataset": "org/rows", "test_size": 5},),
    Preference: ({**PLACED, "dataset": "org/rows", "data": {"eval_split": "test"}},),
    Distillation: (
        {**TAUGHT, "more": [{"dataset": "org/more", "teacher": "tiny"}]},
        {**TAUGHT, "mode": "on_policy", "env": "math"},
    ),
    MathRl: ({**PLACED, "env": "gsm8k", "kl_penalty_coef": 0.5},),
}
"""Settings of each recipe; every other setting has something to act on under some of them."""

OTHERS: dict[str, Any] = {
    "model": "org/other",
    "teacher": "org/other",
    "dataset": "org/others",
    "renderer": "qwen3",
    "teacher_renderer": "qwen3",
    "teacher_weights": "some/weights",
    "baseline": "run_2_00000000",
    "env": "polaris",
    "fewshot": False,
    "math_rl:loss": "ppo",
    "distillation:loss": "ppo",
    "distillation:env": "arithmetic",
    "distillation:more": [],
    "env_options": {"fewshot": False},
    "loss_config": {"clip_low_threshold": 0.5},
    "data.path": "org/others",
    "data.eval_path": "org/others",
    "data.mapping": {"schema": "messages"},
}
"""Another value, where none can be made from the type; ``recipe:setting`` goes before ``setting``."""

WITH: dict[str, dict[str, Any]] = {
    "data.test_size": {"eval_split": None},
    "data.eval_split": {"eval_path": "org/held"},
    "data.eval_config": {"eval_path": "org/held"},
    "n_batches": {"env": "arithmetic"},
    "held_out": {"env": "arithmetic"},
    "kl_penalty_coef": {"kl_discount_factor": 0.0},
}
"""What else must be given for a setting to have something to act on."""


def another(annotation: Any, value: Any) -> Any:
    """A value of the type that differs from ``value``."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is Literal:
        return next(one for one in get_args(annotation) if one != value)
    if annotation is bool:
        return not value
    if annotation is int:
        return (value or 0) + 3
    if annotation is float:
        return (value or 0.0) / 2 + 0.1
    if get_origin(annotation) is tuple:
        return ["b"]
    if isinstance(annotation, type) and hasattr(annotation, "__members__"):
        return next(str(one) for one in annotation if one != value)  # type: ignore[attr-defined]
    return "other"


def settings_of(model: BaseModel, prefix: str = "") -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            found += settings_of(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", field.annotation, value))
    return found


def merged(base: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    group, _, name = path.rpartition(".")
    if not group:
        return {**base, **WITH.get(path, {}), path: value}
    return {**base, group: {**base[group], **WITH.get(path, {}), name: value}}


def done_by(recipe: Recipe[Any], settings: Mapping[str, Any]) -> str:
    """What an experiment does; the settings that it was made from are only noted in it."""
    return json.dumps(recipe.parse(dict(settings)).model_dump(mode="json", exclude={"settings"}))


def acts(recipe: Recipe[Any], base: Mapping[str, Any], path: str, annotation: Any, value: Any) -> bool:
    """Whether another value of a setting changes what is done; a value that is refused does not."""
    known = next((OTHERS[key] for key in (f"{recipe.name}:{path}", path) if key in OTHERS), None)
    other = another(annotation, value) if known is None else known
    before = merged(base, path, value) if path in WITH else base
    try:
        return done_by(recipe, before) != done_by(recipe, merged(base, path, other))
    except ConfigError:
        return False


@pytest.mark.parametrize("kind", list(BASES), ids=lambda kind: str(kind.name))
def test_every_setting_of_a_recipe_changes_what_is_done(kind: type[Recipe[Any]]) -> None:
    recipe, idle = kind(), list[set[str]]()
    for base in BASES[kind]:
        config = kind.config_model.parse(base)
        idle.append({path for path, *rest in settings_of(config) if not acts(recipe, base, path, *rest)})
    assert set.intersection(*idle) == set()


@pytest.mark.parametrize("kind", list(BASES), ids=lambda kind: str(kind.name))
def test_no_default_is_a_path_of_one_machine(kind: type[Recipe[Any]]) -> None:
    said = json.dumps(kind.config_model().model_dump(mode="json"))
    assert str(Path.home()) not in said
    assert not [part for part in said.split('"') if part.startswith(("/", "~"))]


def test_every_recipe_of_the_cookbook_is_looked_at() -> None:
    installed = {one.name for one in discover(RECIPES) if one.package == "crucible-cookbook"}
    assert installed == {str(kind.name) for kind in BASES}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"limit": 5}, "limit"),
        ({"rules": "cookbook_exact", "shuffle_seed": 3}, "rules, shuffle_seed"),
        ({"env": "tiny", "rules": "cookbook_exact"}, "rules"),
        ({"env": "gsm8k", "n_batches": 5, "held_out": 0}, "held_out, n_batches"),
        ({"kl_discount_factor": 0.5}, "kl_discount_factor"),
    ],
)
def test_a_setting_that_does_nothing_with_the_environment_is_refused(
    settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=f"nothing acts on {named} with"):
        MathRl().parse({**PLACED, **settings})
