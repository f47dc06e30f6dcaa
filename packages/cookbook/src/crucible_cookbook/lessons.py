"""What the quickstart shows: each recipe on the bundled model, small enough for two cores and a few minutes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crucible_cookbook.bundled import bundled_data
from crucible_cookbook.data import BUNDLED_RENDERER
from crucible_ir import BackendRef, Experiment
from crucible_kitchen.catalog import recipe

__all__ = ["LESSONS", "Lesson", "experiment"]

_COMMON: dict[str, Any] = {
    "model": "tiny",
    "renderer": BUNDLED_RENDERER,
    "lora_rank": 32,
    "dtype": "float32",
}

Earlier = Mapping[str, Path]
"""Folders of the runs of earlier lessons, by recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One recipe with settings under which it learns something in well under a minute.

    ``settings`` may refer to what earlier lessons left; ``after`` names the recipes it needs.
    """

    recipe: str
    about: str
    settings: Callable[[Earlier], dict[str, Any]]
    after: tuple[str, ...] = ()


def _chats(_: Earlier) -> dict[str, Any]:
    return {
        "data": {"path": "tiny"},
        "max_length": 256,
        "batch_size": 16,
        "max_steps": 100,
        "learning_rate": 5e-3,
        "save_every": 25,
        "eval_every": 50,
        "sample_prompts": 4,
        "sample_max_tokens": 48,
    }


def _sums_as_chats(_: Earlier) -> dict[str, Any]:
    return {
        "dataset": str(bundled_data("arithmetic_train.jsonl")),
        "test_size": 256,
        "max_length": 64,
        "batch_size": 64,
        "epochs": 4,
        "max_steps": 100,
        "learning_rate": 3e-3,
        "save_every": 0,
        "eval_every": 50,
        "sample_prompts": 2,
        "sample_max_tokens": 12,
    }


def _pairs(_: Earlier) -> dict[str, Any]:
    return {
        "data": {"path": "tiny"},
        "max_length": 256,
        "batch_size": 16,
        "max_steps": 12,
        "learning_rate": 3e-4,
        "save_every": 0,
        "eval_every": 12,
    }


def _sums(_: Earlier) -> dict[str, Any]:
    return {
        "env": "tiny",
        "group_size": 8,
        "groups_per_batch": 64,
        "max_tokens": 5,
        "epochs": 2,
        "max_steps": 45,
        "learning_rate": 4e-3,
        "lr_schedule": "linear",
        "grad_clip_norm": 10.0,
        "remove_constant_reward_groups": True,
        "eval_temperature": 0.0,
        "save_every": 0,
        "eval_every": 45,
    }


def _teacher(earlier: Earlier) -> dict[str, Any]:
    return {
        "mode": "on_policy",
        "dataset": "tiny",
        "env": "arithmetic",
        "teacher": "tiny",
        "teacher_weights": str(earlier["chat_sl"] / "checkpoints" / "final"),
        "group_size": 1,
        "groups_per_batch": 128,
        "max_tokens": 5,
        "epochs": 3,
        "max_steps": 45,
        "learning_rate": 4e-3,
        "lr_schedule": "linear",
        "eval_temperature": 0.0,
        "save_every": 0,
        "eval_every": 45,
    }


LESSONS = (
    Lesson(recipe="sl_basic", about="the base model learns to answer as Pip", settings=_chats),
    Lesson(recipe="chat_sl", about="it learns sums from worked answers", settings=_sums_as_chats),
    Lesson(recipe="preference", about="it learns which of two answers is the friendly one", settings=_pairs),
    Lesson(recipe="math_rl", about="it learns sums from rewards alone", settings=_sums),
    Lesson(
        recipe="distillation",
        about="it learns sums from what the model of chat_sl thinks of its own answers",
        settings=_teacher,
        after=("chat_sl",),
    ),
)
"""In the order in which they are shown."""


def experiment(lesson: Lesson, earlier: Earlier, **changes: Any) -> Experiment:
    """The experiment of a lesson, with settings of its recipe changed if given.

    One thread: matrices of this size gain nothing from a second one, and lose much where cores are busy.
    """
    named = {"name": f"quickstart_{lesson.recipe}"}
    made: Experiment = recipe(lesson.recipe).parse(_COMMON | named | lesson.settings(earlier) | changes)
    return made.model_copy(update={"backend": BackendRef(options={"training_backend": {"num_threads": 1}})})
