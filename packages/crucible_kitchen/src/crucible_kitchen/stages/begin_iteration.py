"""Prepare one iteration of rollout and training."""

from __future__ import annotations

from pydantic import Field

from crucible_ir import Contract
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import MINIBATCHES, ROLLED, STEP, SUBSTEPS, TOTAL_STEPS, TRAINED
from crucible_kitchen.stages.step_plan import OPENED, open_step

__all__ = ["BeginIteration", "BeginIterationOptions"]


class BeginIterationOptions(Contract):
    """How an iteration is cut where training begins before all of its groups are finished."""

    substeps: int = Field(default=1, ge=1)
    minibatches: int = Field(default=0, ge=0)


class BeginIteration(Stage):
    """The learning rate of this iteration, and what is due around it."""

    name = "begin_iteration"
    reads = (STEP, TOTAL_STEPS)
    writes = (ROLLED, TRAINED, SUBSTEPS, MINIBATCHES, *OPENED)
    options_model = BeginIterationOptions

    async def run(self, ctx: StageContext) -> None:
        """Evaluation is due before iterations 0, n, 2n …; a checkpoint after n, 2n … but the last."""
        open_step(ctx)
        ctx.set(ROLLED, [])
        ctx.set(TRAINED, [])
        ctx.set(SUBSTEPS, self.options.substeps)
        ctx.set(MINIBATCHES, self.options.minibatches)
