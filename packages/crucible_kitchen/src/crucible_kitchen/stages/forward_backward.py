"""Submit the forward and backward pass of one step."""

from __future__ import annotations

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import BATCH, FORWARD_BACKWARD, SESSION

__all__ = ["ForwardBackward"]


class ForwardBackward(Stage):
    """Submit the forward and backward pass of this step, in micro-batches if asked."""

    name = "forward_backward"
    reads = (SESSION, BATCH, FORWARD_BACKWARD)
    writes = (FORWARD_BACKWARD,)

    async def run(self, ctx: StageContext) -> None:
        """Gradients of all micro-batches add up; nothing is awaited here, and nothing submitted for no data."""
        training, session, batch = ctx.training, ctx.get(SESSION), ctx.get(BATCH)
        size = training.micro_batch_size or max(1, len(batch))
        passes = [
            session.forward_backward(batch[start : start + size], training.loss, training.loss_config or None)
            for start in range(0, len(batch), size)
        ]
        ctx.set(FORWARD_BACKWARD, [*ctx.get(FORWARD_BACKWARD), *passes])
