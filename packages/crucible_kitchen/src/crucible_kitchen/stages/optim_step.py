"""Submit one optimiser step."""

from __future__ import annotations

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import FORWARD_BACKWARD, LEARNING_RATE, OPTIM_STEP, SESSION, STEP
from crucible_train.types import AdamParams

__all__ = ["OptimStep"]


class OptimStep(Stage):
    """Submit the optimiser step that uses the accumulated gradients."""

    name = "optim_step"
    reads = (SESSION, LEARNING_RATE, STEP, FORWARD_BACKWARD)
    writes = (OPTIM_STEP, STEP)

    async def run(self, ctx: StageContext) -> None:
        """The only place where the step counter moves."""
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
        ctx.set(OPTIM_STEP, ctx.get(SESSION).optim_step(params))
        ctx.set(STEP, ctx.get(STEP) + 1)
