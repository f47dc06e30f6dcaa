"""Save a state from which the run goes on exactly."""

from __future__ import annotations

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import IN_FLIGHT, LAST_CHECKPOINT_STEP, SESSION, STEP

__all__ = ["SaveCheckpoint"]


class SaveCheckpoint(Stage):
    """Save weights, optimiser and random state together with the place in the data and the metrics."""

    name = "save_checkpoint"
    reads = (SESSION, STEP, IN_FLIGHT)
    optional_reads = (LAST_CHECKPOINT_STEP,)
    writes = (LAST_CHECKPOINT_STEP,)
    ports = ("metrics_store",)
    commits = True

    async def run(self, ctx: StageContext) -> None:
        """Submitted steps are awaited first, so that the state is that of the recorded place."""
        step = ctx.get(STEP)
        await ctx.get(IN_FLIGHT).settle()
        if ctx.find(LAST_CHECKPOINT_STEP, -1) == step:
            return
        checkpoint = await ctx.get(SESSION).save_state(f"step_{step:06d}")
        store = ctx.port("metrics_store")
        store.flush()
        ctx.set(LAST_CHECKPOINT_STEP, step)
        ctx.commit_checkpoint(
            checkpoint.model_copy(update={"produced_by": ctx.run_id}),
            step=step,
            metrics_position=store.position(ctx.run_id),
        )
