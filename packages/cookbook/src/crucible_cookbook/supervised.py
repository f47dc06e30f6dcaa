"""What the recipes share: the config and the way from it to an experiment."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from crucible_cookbook.bundled import bundled_model
from crucible_cookbook.data import BUNDLED, BUNDLED_RENDERER, ConversationData, existing
from crucible_ir import (
    Contract,
    Experiment,
    LoraSpec,
    ModelRef,
    OptimizerSpec,
    PipelineNode,
    ScheduleSpec,
    TrainingConfig,
)
from crucible_kitchen.workflows.supervised import SupervisedOptions, supervised
from crucible_train.renderers import TrainOnWhat

__all__ = [
    "SupervisedConfig",
    "TrainingSettings",
    "base_experiment",
    "model_ref",
    "renderer_of",
    "supervised_experiment",
    "workflow_options",
]


class TrainingSettings(Contract):
    """Settings of any recipe that trains on rows of text; the defaults are upstream's."""

    name: str | None = None
    """Name of the experiment and of the model it registers; None takes the recipe's."""
    model: str = "Qwen/Qwen3.5-9B-Base"
    """Folder or hub id of the base model; ``tiny`` is the bundled one."""
    renderer: str | None = None
    """Chat format, such as ``qwen3``; None takes the one that belongs to the model."""
    max_length: int = Field(default=32768, ge=2)
    """Tokens of an example; what is longer is cut at its end."""
    batch_size: int = Field(default=128, ge=1)
    """Examples per step."""
    learning_rate: float = Field(default=1e-4, ge=0)
    """Peak learning rate of Adam."""
    lr_schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls from its peak to the last step."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises to its peak."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the mean of squared gradients."""
    adam_eps: float = Field(default=1e-8, gt=0)
    """Term of Adam that keeps it from dividing by zero."""
    grad_clip_norm: float = Field(default=0.0, ge=0)
    """Largest norm of the gradient; 0 clips nothing."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the data."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps; None goes through all epochs."""
    lora_rank: int | None = Field(default=32, ge=1)
    """Rank of the LoRA adapter; None trains all weights."""
    save_every: int = Field(default=20, ge=0)
    """Steps between checkpoints; 0 saves at the end alone."""
    eval_every: int = Field(default=10, ge=0)
    """Steps between evaluations of the held-out loss; 0 evaluates at the end alone."""
    submit_ahead: int = Field(default=1, ge=0)
    """Steps sent to the backend before the present one has answered."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights; ``auto`` takes what suits the device."""
    drop_last: bool = True
    """Leave out the last batch of an epoch when it is not full."""
    on_error: Literal["raise", "drop"] = "raise"
    """A row that cannot be rendered stops the run, or is left out and counted."""
    seed: int = Field(default=0, ge=0)
    """Seed of LoRA weights and of samples."""
    tags: tuple[str, ...] = ()
    """Tags of the experiment."""
    baseline: str | None = None
    """Run that this one is to be compared with."""


class SupervisedConfig(TrainingSettings):
    """Settings of a recipe that learns conversations."""

    train_on_what: TrainOnWhat = TrainOnWhat.ALL_ASSISTANT_MESSAGES
    """Which messages the loss counts."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Examples per pass, to save memory; does not change the step. None takes the whole batch."""
    sample_prompts: int = Field(default=3, ge=0)
    """Held-out prompts answered before and after training."""
    sample_max_tokens: int = Field(default=64, ge=1)
    """Longest such answer."""


def model_ref(model: str) -> ModelRef:
    """The model that a recipe's ``model`` names: bundled, a folder here, or a hub id."""
    if model == BUNDLED:
        return ModelRef(id=BUNDLED, uri=str(bundled_model()))
    here = existing(model, where="model")
    return ModelRef(id=model, uri=None if here is None else str(here))


def renderer_of(model: str, chosen: str | None) -> str | None:
    """The renderer that was chosen, else that of the bundled model; None leaves it to the table of known models."""
    return BUNDLED_RENDERER if chosen is None and model == BUNDLED else chosen


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
        "on_error": config.on_error,
        "evaluate": evaluate,
        "sample_prompts": config.sample_prompts if evaluate else 0,
        "sample_max_tokens": config.sample_max_tokens,
    }


def base_experiment(
    recipe: str,
    config: TrainingSettings,
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
        training=_training(config, evaluate=held_out is not None),
        settings=config.model_dump(mode="json"),
        seed=config.seed,
        tags=config.tags,
        baseline=config.baseline,
    )


def _training(config: TrainingSettings, *, evaluate: bool) -> TrainingConfig:
    return TrainingConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size if isinstance(config, SupervisedConfig) else None,
        max_steps=config.max_steps,
        max_length=config.max_length,
        lora=None if config.lora_rank is None else LoraSpec(rank=config.lora_rank),
        optimizer=OptimizerSpec(
            learning_rate=config.learning_rate,
            beta1=config.adam_beta1,
            beta2=config.adam_beta2,
            eps=config.adam_eps,
            grad_clip_norm=config.grad_clip_norm,
        ),
        schedule=ScheduleSpec(name=config.lr_schedule, warmup_steps=config.warmup_steps),
        dtype=config.dtype,
        drop_last=config.drop_last,
        submit_ahead=config.submit_ahead,
        eval_every=config.eval_every if evaluate else 0,
        save_every=config.save_every,
    )
