"""Training settings: adapter, optimiser, schedule, cadence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from crucible_ir.contract import Contract
from crucible_ir.json_values import JsonObject

__all__ = ["LoraSpec", "OptimizerSpec", "ScheduleSpec", "TrainingConfig"]


class LoraSpec(Contract):
    """A low-rank adapter."""

    rank: int = Field(default=32, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    seed: int | None = Field(default=None, ge=0)
    """Seed of the initialisation; None derives one from the experiment's seed."""
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True


class OptimizerSpec(Contract):
    """AdamW."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=1e-4, ge=0)
    """Base rate; 0 trains nothing and is allowed as a control."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip_norm: float = Field(default=0.0, ge=0)
    """Largest gradient norm; 0 is no clipping."""


class ScheduleSpec(Contract):
    """Learning-rate multiplier over the run."""

    name: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = Field(default=0, ge=0)


class TrainingConfig(Contract):
    """How to train."""

    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=128, ge=1)
    """Examples per optimiser step."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Examples per forward/backward call; None sends the batch whole."""
    max_steps: int | None = Field(default=None, ge=1)
    max_length: int = Field(default=32768, ge=2)
    """Longest example in tokens; longer ones are truncated at the end."""
    lora: LoraSpec | None = LoraSpec()
    """None is full fine-tuning."""
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    loss: str = "cross_entropy"
    loss_config: dict[str, float] = Field(default_factory=dict)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    drop_last: bool = True
    """Leave out the last, partial batch of each epoch, as upstream does."""
    submit_ahead: int = Field(default=1, ge=0)
    """Steps that may be submitted before an earlier one is awaited."""
    eval_every: int = Field(default=0, ge=0)
    """Evaluate before every n-th step; 0 is never."""
    save_every: int = Field(default=0, ge=0)
    """Save state after every n steps; 0 is only at the end."""
    options: JsonObject = Field(default_factory=dict)

    @field_validator("micro_batch_size")
    @classmethod
    def _within_the_batch(cls, size: int | None, info: ValidationInfo) -> int | None:
        batch = info.data.get("batch_size")
        if size is not None and batch is not None and size > batch:
            raise ValueError(f"should be at most batch_size ({batch})")
        return size
