"""Order the examples of one epoch."""

from __future__ import annotations

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.keys import BATCHES, EPOCH, EXAMPLES, TOTAL_STEPS
from crucible_train.supervised import batch_indices

__all__ = ["BeginEpoch"]

_INDEX: Key[int] = Key("epochs_index")


class BeginEpoch(Stage):
    """Order the examples of this epoch and cut them into batches."""

    name = "begin_epoch"
    reads = (EXAMPLES, TOTAL_STEPS, _INDEX)
    writes = (EPOCH, BATCHES)
    setup = True

    async def run(self, ctx: StageContext) -> None:
        """Batches of this epoch, no more than the run still has steps for."""
        training = ctx.training
        epoch, count = ctx.get(_INDEX), len(ctx.get(EXAMPLES))
        batches = batch_indices(count, training.batch_size, epoch=epoch, drop_last=training.drop_last)
        left = max(0, ctx.get(TOTAL_STEPS) - epoch * len(batches))
        ctx.set(EPOCH, epoch)
        ctx.set(BATCHES, batches[:left])
