"""Prepare one optimiser step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.keys import (
    BATCH,
    CHECKPOINT_DUE,
    EVALUATION_DUE,
    EXAMPLES,
    LEARNING_RATE,
    PENDING_METRICS,
    STEP,
    TOTAL_STEPS,
)
from crucible_train.schedules import lr_multiplier

__all__ = ["BeginStep"]

_ITEM: Key[NDArray[np.int64]] = Key("batches_item")


class BeginStep(Stage):
    """Gather the batch, the learning rate, and what is due around this step."""

    name = "begin_step"
    reads = (EXAMPLES, STEP, TOTAL_STEPS, _ITEM)
    writes = (BATCH, LEARNING_RATE, EVALUATION_DUE, CHECKPOINT_DUE, PENDING_METRICS)

    async def run(self, ctx: StageContext) -> None:
        """Evaluation is due before steps 0, n, 2n …; a checkpoint after n, 2n … steps but the last."""
        training = ctx.training
        step, total, examples = ctx.get(STEP), ctx.get(TOTAL_STEPS), ctx.get(EXAMPLES)
        schedule = training.schedule
        ctx.set(BATCH, [datum for index in ctx.get(_ITEM) for datum in examples[index].datums])
        multiplier = lr_multiplier(schedule.name, step, total, warmup_steps=schedule.warmup_steps)
        ctx.set(LEARNING_RATE, training.optimizer.learning_rate * multiplier)
        ctx.set(EVALUATION_DUE, training.eval_every > 0 and step % training.eval_every == 0)
        done = step + 1
        ctx.set(CHECKPOINT_DUE, training.save_every > 0 and done % training.save_every == 0 and done < total)
        ctx.set(PENDING_METRICS, {})
