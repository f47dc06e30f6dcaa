"""Off-policy distillation: train on what a teacher answers."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import Field

from crucible_cookbook.data import ConversationData
from crucible_cookbook.settings import model_ref, renderer_of
from crucible_cookbook.supervised import SupervisedConfig, base_experiment, workflow_options
from crucible_ir import Experiment
from crucible_kitchen.recipes import Recipe
from crucible_kitchen.workflows.distillation import DistillationOptions, distillation
from crucible_train.renderers import TrainOnWhat

__all__ = ["Distillation", "DistillationConfig"]


class DistillationConfig(SupervisedConfig):
    """Settings of ``distillation``."""

    data: ConversationData = ConversationData(eval_split="test")
    """Conversations whose last assistant turn the teacher writes anew."""
    teacher: str = "Qwen/Qwen3.5-9B"
    """Folder or hub id of the teacher's base model; ``tiny`` is the bundled one."""
    teacher_weights: str | None = None
    """Folder of weights that a run saved, such as ``…/checkpoints/final``."""
    teacher_renderer: str | None = None
    teacher_max_tokens: int = Field(default=256, ge=1)
    teacher_temperature: float = Field(default=1.0, ge=0)
    train_on_what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_MESSAGE
    lora_rank: int | None = Field(default=128, ge=1)


class Distillation(Recipe[DistillationConfig]):
    """Off-policy distillation: a teacher answers the prompts, the student learns its answers."""

    name = "distillation"
    config_model = DistillationConfig

    def experiment(self, config: DistillationConfig) -> Experiment:
        """Sample the teacher once, train on its answers, watch the loss on its held-out answers."""
        teacher, weights = model_ref(config.teacher), config.teacher_weights
        options = DistillationOptions(
            **workflow_options(config, config.data),
            teacher=teacher.uri or teacher.id,
            teacher_weights=None if weights is None else str(Path(weights).expanduser().resolve()),
            teacher_renderer=renderer_of(config.teacher, config.teacher_renderer),
            teacher_max_tokens=config.teacher_max_tokens,
            teacher_temperature=config.teacher_temperature,
        )
        return base_experiment(
            self.name, config, config.data, workflow=self.name, pipeline=distillation(options)
        )


if __name__ == "__main__":
    from crucible_kitchen.cli.main import main

    sys.exit(main(["run", Distillation.name, *sys.argv[1:]]))
