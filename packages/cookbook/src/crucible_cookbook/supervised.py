"""What the recipes that train on rows of text share: the config and the way from it to an experiment."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from crucible_cookbook.data import ConversationData
from crucible_cookbook.settings import TrainingSettings, model_ref, renderer_of, training_config
from crucible_ir import Experiment, PipelineNode
from crucible_kitchen.workflows.supervised import SupervisedOptions, supervised
from crucible_train.renderers import TrainOnWhat

__all__ = ["RowSettings", "SupervisedConfig", "base_experiment", "supervised_experiment", "workflow_options"]


class RowSettings(TrainingSettings):
    """Settings of any recipe that trains on rows of text."""

    max_length: int = Field(default=32768, ge=2)
    """Tokens of an example; what is longer is cut at its end."""
    batch_size: int = Field(default=128, ge=1)
    """Examples per step."""
    drop_last: bool = True
    """Leave out the last batch of an epoch when it is not full."""
    on_error: Literal["raise", "drop"] = "raise"
    """A row that cannot be rendered stops the run, or is left out and counted."""


class SupervisedConfig(RowSettings):
    """Settings of a recipe that learns conversations."""

    train_on_what: TrainOnWhat = TrainOnWhat.ALL_ASSISTANT_MESSAGES
    """Which messages the loss counts."""
    reduction: Literal["mean", "sum"] = "mean"
    """``mean``: every row weighs 1 in its batch; ``sum``: every counted token does."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Examples per pass, to save memory; does not change the step. None takes the whole batch."""
    sample_prompts: int = Field(default=3, ge=0)
    """Held-out prompts answered before and after training."""
    sample_max_tokens: int = Field(default=64, ge=1)
    """Longest such answer."""


def supervised_experiment(recipe: str, config: SupervisedConfig, data: ConversationData) -> Experiment:
    """The experiment of a supervised recipe on ``data``."""
    options = SupervisedOptions(**workflow_options(config, data))
    return base_experiment(recipe, config, data, workflow="supervised", pipeline=supervised(options))


def workflow_options(config: SupervisedConfig, data: ConversationData) -> dict[str, Any]:
    """What every workflow that trains on conversations takes from the config."""
    evaluate = data.held_out() is not None
    return {
        "renderer": renderer_of(config.model, config.renderer),
        "train_on_what": config.train_on_what.value,
        "reduction": "none" if config.reduction == "sum" else config.reduction,
        "on_error": config.on_error,
        "evaluate": evaluate,
        "sample_prompts": config.sample_prompts if evaluate else 0,
        "sample_max_tokens": config.sample_max_tokens,
    }


def base_experiment(
    recipe: str,
    config: RowSettings,
    data: ConversationData,
    *,
    workflow: str,
    pipeline: tuple[PipelineNode, ...],
) -> Experiment:
    """The experiment of any recipe that trains on rows of text."""
    held_out = data.held_out()
    return Experiment(
        id=config.name or recipe,
        recipe=recipe,
        workflow=workflow,
        pipeline=pipeline,
        model=model_ref(config.model),
        dataset=data.train(),
        eval_dataset=held_out,
        training=training_config(
            config,
            evaluate=held_out is not None,
            batch_size=config.batch_size,
            micro_batch_size=config.micro_batch_size if isinstance(config, SupervisedConfig) else None,
            max_length=config.max_length,
            drop_last=config.drop_last,
        ),
        settings=config.model_dump(mode="json"),
        seed=config.seed,
        tags=config.tags,
        baseline=config.baseline,
    )
