"""Submit one optimiser step."""

from __future__ import annotations

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import FORWARD_BACKWARD, LEARNING_RATE, OPTIM_STEPS, SESSION, USED_PASSES
from crucible_train.types import AdamParams

__all__ = ["OptimStep"]


class OptimStep(Stage):
    """Submit the optimiser step that uses the accumulated gradients."""

    name = "optim_step"
    reads = (SESSION, LEARNING_RATE, FORWARD_BACKWARD, OPTIM_STEPS, USED_PASSES)
    writes = (OPTIM_STEPS, USED_PASSES)

    async def run(self, ctx: StageContext) -> None:
        """The handle joins those of this step; nothing is awaited here.

        Where no pass was submitted since the last one there is no gradient, and no step is taken.
        """
        passes = len(ctx.get(FORWARD_BACKWARD))
        if passes == ctx.get(USED_PASSES):
            return
        ctx.set(USED_PASSES, passes)
        training = ctx.training
        optimizer = training.optimizer
        params = AdamParams(
            learning_rate=ctx.get(LEARNING_RATE),
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            grad_clip_norm=optimizer.grad_clip_norm,
        )
        ctx.set(OPTIM_STEPS, [*ctx.get(OPTIM_STEPS), ctx.get(SESSION).optim_step(params)])
