"""Prepare one training step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.keys import BATCH, EXAMPLES, STEP, TOTAL_STEPS
from crucible_kitchen.stages.step_plan import OPENED, open_step

__all__ = ["BeginStep"]

_ITEM: Key[NDArray[np.int64]] = Key("batches_item")


class BeginStep(Stage):
    """Gather the batch, the learning rate, and what is due around this step."""

    name = "begin_step"
    reads = (EXAMPLES, STEP, TOTAL_STEPS, _ITEM)
    writes = (BATCH, *OPENED)

    async def run(self, ctx: StageContext) -> None:
        """Evaluation is due before steps 0, n, 2n …; a checkpoint after n, 2n … steps but the last."""
        examples = ctx.get(EXAMPLES)
        ctx.set(BATCH, [datum for index in ctx.get(_ITEM) for datum in examples[index].datums])
        open_step(ctx)
