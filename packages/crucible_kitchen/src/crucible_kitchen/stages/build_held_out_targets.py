"""Ask the teachers what they would say at every position of the held-out examples."""

from __future__ import annotations

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.build_soft_targets import SoftTargetsOptions
from crucible_kitchen.stages.keys import EVAL_EXAMPLES, EVAL_MIXTURE, EVAL_TARGETS, TEACHERS
from crucible_kitchen.stages.soft_targets import soft_targets

__all__ = ["BuildHeldOutTargets"]


class BuildHeldOutTargets(Stage):
    """Ask the teachers once for their likeliest tokens at every position of the held-out examples."""

    name = "build_held_out_targets"
    reads = (EVAL_EXAMPLES, EVAL_MIXTURE, TEACHERS)
    writes = (EVAL_TARGETS,)
    options_model = SoftTargetsOptions
    setup = True

    async def run(self, ctx: StageContext) -> None:
        """The same targets at every evaluation, so that evaluations are paired."""
        mixture, teachers = ctx.get(EVAL_MIXTURE), ctx.get(TEACHERS)
        examples = ctx.get(EVAL_EXAMPLES)
        made = await soft_targets(
            [teachers[mixture.source_of(index)] for index in range(len(examples))],
            [example.datum for example in examples],
            n_targets=self.options.n_targets,
            in_flight=self.options.in_flight,
        )
        ctx.set(EVAL_TARGETS, made)
