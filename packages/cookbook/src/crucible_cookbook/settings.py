"""What every recipe shares: the settings of training, and the way from them to an experiment."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from crucible_cookbook.bundled import bundled_model
from crucible_cookbook.data import BUNDLED, BUNDLED_RENDERER, existing
from crucible_ir import Contract, LoraSpec, ModelRef, OptimizerSpec, ScheduleSpec, TrainingConfig

__all__ = ["TrainingSettings", "model_ref", "renderer_of", "training_config"]


class TrainingSettings(Contract):
    """Settings of any run; the defaults are upstream's."""

    name: str | None = None
    """Name of the experiment and of the model it registers; None takes the recipe's."""
    model: str = "Qwen/Qwen3.5-9B-Base"
    """Folder or hub id of the base model; ``tiny`` is the bundled one."""
    renderer: str | None = None
    """Chat format, such as ``qwen3``; None takes the one that belongs to the model."""
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
    """Steps between evaluations on held-out data; 0 evaluates at the end alone."""
    submit_ahead: int = Field(default=1, ge=0)
    """Steps sent to the backend before the present one has answered."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights; ``auto`` takes what suits the device."""
    seed: int = Field(default=0, ge=0)
    """Seed of LoRA weights and of samples."""
    tags: tuple[str, ...] = ()
    """Tags of the experiment."""
    baseline: str | None = None
    """Run that this one is to be compared with."""


def model_ref(model: str) -> ModelRef:
    """The model that a recipe's ``model`` names: bundled, a folder here, or a hub id."""
    if model == BUNDLED:
        return ModelRef(id=BUNDLED, uri=str(bundled_model()))
    here = existing(model, where="model")
    return ModelRef(id=model, uri=None if here is None else str(here))


def renderer_of(model: str, chosen: str | None) -> str | None:
    """The renderer that was chosen, else that of the bundled model; None leaves it to the table of known models."""
    return BUNDLED_RENDERER if chosen is None and model == BUNDLED else chosen


def training_config(config: TrainingSettings, *, evaluate: bool, **more: Any) -> TrainingConfig:
    """The training settings of an experiment; ``more`` are fields that belong to one kind of recipe."""
    return TrainingConfig(
        epochs=config.epochs,
        max_steps=config.max_steps,
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
        submit_ahead=config.submit_ahead,
        eval_every=config.eval_every if evaluate else 0,
        save_every=config.save_every,
        **more,
    )
