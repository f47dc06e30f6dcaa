"""Let the policy act in the groups of this iteration."""

from __future__ import annotations

from pydantic import Field

from crucible_ir import Contract, EventType
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.keys import GROUPS, ROLLED, ROLLOUTS, STEP
from crucible_kitchen.stages.rollouts import FailedGroup

__all__ = ["Rollout", "RolloutOptions"]

_SUBSTEP: Key[int] = Key("substeps_index")
_MINIBATCH: Key[int] = Key("minibatches_index")


class RolloutOptions(Contract):
    """Whether training begins before all groups of an iteration are finished."""

    substeps: int = Field(default=1, ge=1)
    minibatches: int = Field(default=0, ge=0)
    """Parts that each substep awaits one after the other, inside loops of those names; 0 awaits all groups at once."""


class Rollout(Stage):
    """Sample the groups of this iteration, all at once, and await them in order."""

    name = "rollout"
    reads = (ROLLOUTS, ROLLED, STEP)
    optional_reads = (_SUBSTEP, _MINIBATCH)
    writes = (GROUPS, ROLLED)
    options_model = RolloutOptions

    async def run(self, ctx: StageContext) -> None:
        """A group that failed is left out only where that was asked for; it is counted and said.

        Raises:
            CrucibleError: that of the first group, where all groups of the iteration failed.
        """
        options, step = self.options, ctx.get(STEP)
        part, parts = 0, 1
        if options.minibatches:
            parts = options.substeps * options.minibatches
            part = ctx.get(_SUBSTEP) * options.minibatches + ctx.get(_MINIBATCH)
        pool = ctx.get(ROLLOUTS)
        groups = await pool.groups(step, part=part, parts=parts)
        rolled = [*ctx.get(ROLLED), *groups]
        failed = [group for group in groups if isinstance(group, FailedGroup)]
        if failed:
            facts = {"step": step, "count": len(failed), "error": str(failed[0].error)}
            message = "groups failed and are left out; rollout_errors/groups counts them"
            ctx.emit(EventType.LOG, {"level": "warning", "message": message, **facts})
        errors = [group.error for group in rolled if isinstance(group, FailedGroup)]
        if part == parts - 1:
            if rolled and len(errors) == len(rolled):
                raise errors[0]
            await pool.release(step)
        ctx.set(GROUPS, groups)
        ctx.set(ROLLED, rolled)
        ctx.publish("rolled out", {"step": step, "groups": len(rolled)})
