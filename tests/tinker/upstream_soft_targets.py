"""Upstream's off-policy loop, which has no recipe of its own, behind words like those of its recipes."""

from __future__ import annotations

import asyncio

import chz
from tinker_cookbook.distillation import train_off_policy
from tinker_cookbook.distillation.datasets import TeacherConfig
from tinker_cookbook.model_info import get_recommended_renderer_name
from tinker_cookbook.recipes.chat_sl.chat_datasets import NoRobotsBuilder
from tinker_cookbook.supervised.types import ChatDatasetBuilderCommonConfig


@chz.chz
class Words:
    """What can be said."""

    model_name: str
    teacher: str
    log_path: str
    learning_rate: float
    batch_size: int
    max_steps: int


def main(words: Words) -> None:
    """Distil the teacher's likeliest tokens on NoRobots."""
    renderer = get_recommended_renderer_name(words.model_name)
    common = ChatDatasetBuilderCommonConfig(
        model_name_for_tokenizer=words.model_name,
        renderer_name=renderer,
        max_length=32768,
        batch_size=words.batch_size,
    )
    domain = train_off_policy.DatasetWithTeacher(
        dataset_builder=NoRobotsBuilder(common_config=common),
        teacher_config=TeacherConfig(base_model=words.teacher),
    )
    config = train_off_policy.Config(
        learning_rate=words.learning_rate,
        dataset_configs=[domain],
        model_name=words.model_name,
        recipe_name="off_policy",
        renderer_name=renderer,
        batch_size=words.batch_size,
        log_path=words.log_path,
        max_steps=words.max_steps,
    )
    asyncio.run(train_off_policy.main(config))


if __name__ == "__main__":
    main(chz.entrypoint(Words))
