"""Supervised fine-tuning, as plain as it gets."""

from __future__ import annotations

import sys
from typing import Any

from pydantic import Field, model_validator

from crucible_cookbook.data import ConversationData
from crucible_cookbook.supervised import SupervisedConfig, supervised_experiment
from crucible_ir import ConfigError, Experiment
from crucible_kitchen.recipes import Recipe
from crucible_train.renderers import recommended_renderer

__all__ = ["SlBasic", "SlBasicConfig"]


class SlBasicConfig(SupervisedConfig):
    """Settings of ``sl_basic``."""

    data: ConversationData = ConversationData(eval_split="test")
    renderer: str | None = "role_colon"
    """Chat format; unless given, the one that belongs to a known ``model``."""
    learning_rate: float = Field(default=2e-4, ge=0)
    eval_every: int = Field(default=8, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _follow_the_model(cls, given: Any) -> Any:
        """The renderer follows a model that is known; any other keeps the default, which knows no marks."""
        if not isinstance(given, dict) or "renderer" in given or not isinstance(given.get("model"), str):
            return given
        try:
            return given | {"renderer": recommended_renderer(given["model"])}
        except ConfigError:
            return given


class SlBasic(Recipe[SlBasicConfig]):
    """Supervised fine-tuning on conversations, with few settings and upstream's defaults."""

    name = "sl_basic"
    config_model = SlBasicConfig

    def experiment(self, config: SlBasicConfig) -> Experiment:
        """Train on ``data``, watch held-out loss, save and register."""
        return supervised_experiment(self.name, config, config.data)


if __name__ == "__main__":
    from crucible_kitchen.cli.main import main

    sys.exit(main(["run", SlBasic.name, *sys.argv[1:]]))
