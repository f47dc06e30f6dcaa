"""How many steps there are, and what belongs to each of them."""

from __future__ import annotations

from typing import Any

from crucible_ir import EventType, TrainingConfig
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Key
from crucible_kitchen.stages.keys import (
    CHECKPOINT_DUE,
    CUMULATIVE,
    EPOCHS,
    EVALUATION_DUE,
    FORWARD_BACKWARD,
    LEARNING_RATE,
    OPTIM_STEPS,
    PENDING_METRICS,
    STEP,
    TOTAL_STEPS,
    USED_PASSES,
)
from crucible_train.schedules import lr_multiplier
from crucible_train.supervised import number_of_batches

__all__ = ["OPENED", "limited", "open_step", "plan_steps", "total_steps"]

OPENED: tuple[Key[Any], ...] = (
    LEARNING_RATE,
    EVALUATION_DUE,
    CHECKPOINT_DUE,
    PENDING_METRICS,
    FORWARD_BACKWARD,
    OPTIM_STEPS,
    USED_PASSES,
)
"""What ``open_step`` writes."""


def total_steps(training: TrainingConfig, examples: int) -> int:
    """Training steps of the whole run.

    Raises:
        ConfigError: a batch is larger than the data.
    """
    per_epoch = number_of_batches(examples, training.batch_size, drop_last=training.drop_last)
    return limited(training, per_epoch)


def limited(training: TrainingConfig, per_epoch: int) -> int:
    """Steps of all epochs, cut at ``max_steps``."""
    total = per_epoch * training.epochs
    return total if training.max_steps is None else min(total, training.max_steps)


def plan_steps(ctx: StageContext, examples: int, per_epoch: int | None = None) -> None:
    """Write what the loops and schedules need before the first step, and say it in the log.

    ``per_epoch`` are the batches of one epoch where they do not follow from the number of examples.
    """
    training = ctx.training
    total = total_steps(training, examples) if per_epoch is None else limited(training, per_epoch)
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


def open_step(ctx: StageContext) -> None:
    """The learning rate of this step, what is due around it, and room for its metrics and handles.

    Evaluation is due before steps 0, n, 2n …; a checkpoint after n, 2n … steps but the last.
    """
    training = ctx.training
    step, total = ctx.get(STEP), ctx.get(TOTAL_STEPS)
    schedule = training.schedule
    multiplier = lr_multiplier(schedule.name, step, total, warmup_steps=schedule.warmup_steps)
    ctx.set(LEARNING_RATE, training.optimizer.learning_rate * multiplier)
    ctx.set(EVALUATION_DUE, training.eval_every > 0 and step % training.eval_every == 0)
    done = step + 1
    ctx.set(CHECKPOINT_DUE, training.save_every > 0 and done % training.save_every == 0 and done < total)
    ctx.set(PENDING_METRICS, {})
    ctx.set(FORWARD_BACKWARD, [])
    ctx.set(OPTIM_STEPS, [])
    ctx.set(USED_PASSES, 0)
