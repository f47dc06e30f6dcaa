"""Supervised fine-tuning, as plain as it gets."""

from __future__ import annotations

import sys

from pydantic import Field

from crucible_cookbook.data import ConversationData
from crucible_cookbook.supervised import SupervisedConfig, supervised_experiment
from crucible_ir import Experiment
from crucible_kitchen.recipes import Recipe

__all__ = ["SlBasic", "SlBasicConfig"]


class SlBasicConfig(SupervisedConfig):
    """Settings of ``sl_basic``."""

    data: ConversationData = ConversationData(eval_split="test")
    renderer: str | None = "role_colon"
    learning_rate: float = Field(default=2e-4, ge=0)
    eval_every: int = Field(default=8, ge=0)


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
