"""What the supervised recipes share: the config and the way from it to an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from crucible_cookbook.bundled import bundled_model
from crucible_cookbook.data import BUNDLED
from crucible_ir import (
    Contract,
    DatasetRef,
    Experiment,
    LoraSpec,
    ModelRef,
    OptimizerSpec,
    ScheduleSpec,
    TrainingConfig,
)
from crucible_kitchen.workflows.supervised import SupervisedOptions, supervised
from crucible_train.renderers import TrainOnWhat

__all__ = ["SupervisedConfig", "model_ref", "supervised_experiment"]


class SupervisedConfig(Contract):
    """Settings of a supervised run; the defaults are upstream's."""

    name: str | None = None
    """Name of the experiment and of the model it registers; None takes the recipe's."""
    model: str = "Qwen/Qwen3.5-9B-Base"
    """Folder or hub id of the base model; ``tiny`` is the bundled one."""
    renderer: str | None = None
    train_on_what: TrainOnWhat = TrainOnWhat.ALL_ASSISTANT_MESSAGES
    max_length: int = Field(default=32768, ge=2)
    batch_size: int = Field(default=128, ge=1)
    micro_batch_size: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=1e-4, ge=0)
    lr_schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = Field(default=0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    adam_eps: float = Field(default=1e-8, gt=0)
    grad_clip_norm: float = Field(default=0.0, ge=0)
    epochs: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    lora_rank: int | None = Field(default=32, ge=1)
    """None trains all weights."""
    save_every: int = Field(default=20, ge=0)
    eval_every: int = Field(default=10, ge=0)
    submit_ahead: int = Field(default=1, ge=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    drop_last: bool = True
    sample_prompts: int = Field(default=3, ge=0)
    sample_max_tokens: int = Field(default=64, ge=1)
    on_error: Literal["raise", "drop"] = "raise"
    seed: int = Field(default=0, ge=0)
    tags: tuple[str, ...] = ()
    baseline: str | None = None


def model_ref(model: str) -> ModelRef:
    """The model that a recipe's ``model`` names: bundled, a folder here, or a hub id."""
    if model == BUNDLED:
        return ModelRef(id=BUNDLED, uri=str(bundled_model()))
    here = Path(model).expanduser()
    return ModelRef(id=model, uri=str(here.resolve()) if here.exists() else None)


def supervised_experiment(
    recipe: str,
    config: SupervisedConfig,
    *,
    train: DatasetRef,
    held_out: DatasetRef | None,
    renderer: str | None,
) -> Experiment:
    """The experiment of a supervised recipe."""
    options = SupervisedOptions(
        renderer=renderer,
        train_on_what=config.train_on_what.value,
        on_error=config.on_error,
        evaluate=held_out is not None,
        sample_prompts=config.sample_prompts if held_out is not None else 0,
        sample_max_tokens=config.sample_max_tokens,
    )
    return Experiment(
        id=config.name or recipe,
        recipe=recipe,
        workflow="supervised",
        pipeline=supervised(options),
        model=model_ref(config.model),
        dataset=train,
        eval_dataset=held_out,
        training=_training(config, evaluate=held_out is not None),
        settings=config.model_dump(mode="json"),
        seed=config.seed,
        tags=config.tags,
        baseline=config.baseline,
    )


def _training(config: SupervisedConfig, *, evaluate: bool) -> TrainingConfig:
    return TrainingConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
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
