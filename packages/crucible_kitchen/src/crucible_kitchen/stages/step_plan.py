"""How many steps the prepared examples make."""

from __future__ import annotations

from crucible_ir import EventType, TrainingConfig
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.stages.keys import CUMULATIVE, EPOCHS, TOTAL_STEPS
from crucible_train.supervised import number_of_batches

__all__ = ["plan_steps", "total_steps"]


def total_steps(training: TrainingConfig, examples: int) -> int:
    """Optimiser steps of the whole run.

    Raises:
        ConfigError: a batch is larger than the data.
    """
    per_epoch = number_of_batches(examples, training.batch_size, drop_last=training.drop_last)
    total = per_epoch * training.epochs
    return total if training.max_steps is None else min(total, training.max_steps)


def plan_steps(ctx: StageContext, examples: int) -> None:
    """Write what the loops and schedules need before the first step, and say it in the log."""
    training = ctx.training
    total = total_steps(training, examples)
    ctx.set(EPOCHS, training.epochs)
    ctx.set(TOTAL_STEPS, total)
    ctx.set(CUMULATIVE, ctx.find(CUMULATIVE, {}))
    ctx.emit(
        EventType.RUN_PROGRESS,
        {
            "total_steps": total,
            "epochs": training.epochs,
            "examples": examples,
            "batch_size": training.batch_size,
        },
    )
