"""From rewards to data to train on."""

from __future__ import annotations

from crucible_ir import Contract, EventType
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import GROUPS, ROLLOUT_DATA, STEP
from crucible_kitchen.stages.rollouts import RolledGroup
from crucible_train.rl import (
    assemble_training_data,
    compute_advantages,
    judged_only,
    remove_constant_reward_groups,
)

__all__ = ["ComputeAdvantages", "ComputeAdvantagesOptions"]


class ComputeAdvantagesOptions(Contract):
    """What becomes of groups that teach nothing."""

    remove_constant_reward_groups: bool = False
    """Leave out groups whose members all have one reward; one is kept where all are such."""


class ComputeAdvantages(Stage):
    """Rewards centred within each group, as advantages of the sampled tokens."""

    name = "compute_advantages"
    reads = (GROUPS, STEP)
    writes = (ROLLOUT_DATA,)
    options_model = ComputeAdvantagesOptions

    async def run(self, ctx: StageContext) -> None:
        """What could not be judged has no reward: it is left out, said, and counted in the row's metrics."""
        finished = [found.group for found in ctx.get(GROUPS) if isinstance(found, RolledGroup)]
        groups, unjudged = judged_only(finished)
        if unjudged:
            message = "answers could not be judged and are left out; env/all/cannot_judge counts them"
            facts = {"step": ctx.get(STEP), "count": unjudged}
            ctx.emit(EventType.LOG, {"level": "warning", "message": message, **facts})
        if self.options.remove_constant_reward_groups:
            groups = remove_constant_reward_groups(groups)
        data, _ = assemble_training_data(groups, compute_advantages(groups))
        ctx.set(ROLLOUT_DATA, data)
