"""One attempt of the present weights at each held-out problem."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.environments.environment import HeldOutProblem
from crucible_kitchen.stages.rollouts import RolloutSettings, completer
from crucible_train.ports import SamplingClient
from crucible_train.rl import Complete, TrajectoryGroup, rollout_group

__all__ = ["attempts"]


async def attempts(
    ctx: StageContext,
    sampler: SamplingClient,
    problems: Sequence[HeldOutProblem],
    settings: RolloutSettings,
    *,
    purpose: str,
    in_flight: int,
) -> list[TrajectoryGroup]:
    """A group of one member per problem, in order; ``in_flight`` of them at a time, which changes nothing.

    The draws of a problem depend on the experiment's seed, the purpose and the problem's place alone.
    """
    groups: list[TrajectoryGroup] = []

    async def one(number: int, problem: HeldOutProblem) -> TrajectoryGroup:
        def complete_for(member: int) -> Complete:
            return completer(sampler, settings, ctx.rng(f"{purpose}/{member}", number))

        return await rollout_group(problem.builder, complete_for, max_turns=settings.max_turns)

    for start in range(0, len(problems), in_flight):
        chosen = list(enumerate(problems))[start : start + in_flight]
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(one(number, problem)) for number, problem in chosen]
        except ExceptionGroup as several:
            raise several.exceptions[0] from several
        groups += [task.result() for task in running]
        ctx.publish("evaluating", {"done": len(groups), "of": len(problems)})
    return groups
