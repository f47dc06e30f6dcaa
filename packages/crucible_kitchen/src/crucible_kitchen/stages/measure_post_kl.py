"""Measure how far an iteration moved the policy."""

from __future__ import annotations

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import PENDING_METRICS, SAMPLER, STEP, TRAINED
from crucible_kitchen.stages.scoring import score_targets
from crucible_train.rl import post_kl

__all__ = ["MeasurePostKl"]


class MeasurePostKl(Stage):
    """Score the data of this iteration with the weights that came of it."""

    name = "measure_post_kl"
    reads = (SAMPLER, STEP, TRAINED, PENDING_METRICS)
    writes = (PENDING_METRICS,)

    async def run(self, ctx: StageContext) -> None:
        """Waits for the submitted steps, so it costs the overlap with the next rollouts."""
        data, version = ctx.get(TRAINED), ctx.get(STEP) + 1
        if not data:
            return
        sampler = await ctx.get(SAMPLER).take(version)
        try:
            found = post_kl(data, await score_targets(sampler, data))
        finally:
            await ctx.get(SAMPLER).give_back(version)
        ctx.set(PENDING_METRICS, ctx.get(PENDING_METRICS) | dict(found))
