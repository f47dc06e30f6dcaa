"""Order the examples of one epoch, source by source."""

from __future__ import annotations

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.keys import BATCHES, EPOCH, MIXTURE, TOTAL_STEPS

__all__ = ["BeginMixedEpoch"]

_INDEX: Key[int] = Key("epochs_index")


class BeginMixedEpoch(Stage):
    """Order the examples of every source and put its share of them into each batch."""

    name = "begin_mixed_epoch"
    reads = (MIXTURE, TOTAL_STEPS, _INDEX)
    writes = (EPOCH, BATCHES)
    setup = True

    async def run(self, ctx: StageContext) -> None:
        """Batches of this epoch, no more than the run still has steps for."""
        epoch = ctx.get(_INDEX)
        batches = ctx.get(MIXTURE).batches(epoch, drop_last=ctx.training.drop_last)
        left = max(0, ctx.get(TOTAL_STEPS) - epoch * len(batches))
        ctx.set(EPOCH, epoch)
        ctx.set(BATCHES, batches[:left])
