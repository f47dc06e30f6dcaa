"""One attempt of the present weights at each held-out problem."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic import Field

from crucible_ir import Contract, CrucibleError, DataError, EventType
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.environments.environment import HeldOutProblem
from crucible_kitchen.stages.rollouts import RolloutSettings, acted, policy
from crucible_train.ports import SamplingClient
from crucible_train.rl import Complete, TrajectoryGroup

__all__ = ["AttemptOptions", "attempts"]


class AttemptOptions(Contract):
    """How held-out problems are tried."""

    max_tokens: int = Field(default=256, ge=1)
    max_turns: int | None = Field(default=None, ge=1)
    in_flight: int = Field(default=512, ge=1)
    """Problems tried at the same time; does not change the result."""
    standalone: bool = False
    """Log a row of its own instead of adding to the row of the step that follows."""
    on_error: str = Field(default="raise", pattern="^(raise|drop)$")
    """A problem whose environment fails: stop, or leave it out, count it and say so."""


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

    The draws of a problem depend on the experiment's seed, the purpose and the problem's place alone. Where
    ``settings`` say that failures are dropped, a problem whose environment failed gives a group of nothing.

    Raises:
        CrucibleError: an environment failed and failures are not dropped, or every one of them failed.
        DataError: a problem makes more or fewer than one environment.
    """
    groups: list[TrajectoryGroup] = []
    failed: list[CrucibleError] = []

    async def one(number: int, problem: HeldOutProblem) -> TrajectoryGroup:
        def complete_for(member: int) -> Complete:
            return policy(sampler, settings, ctx.rng(f"{purpose}/{member}", number))

        try:
            group = await acted(problem.builder, complete_for, max_turns=settings.max_turns)
        except CrucibleError as error:
            if not settings.drop_failed:
                raise
            failed.append(error)
            return TrajectoryGroup(trajectories=(), final_rewards=(), metrics=())
        if len(group.trajectories) != 1:
            raise DataError(
                what=f"{len(group.trajectories)} attempts at the held-out problem {problem.example_id}",
                where="Environments.held_out",
                remedy="let the builder of a held-out problem make one environment",
            )
        return group

    for start in range(0, len(problems), in_flight):
        chosen = list(enumerate(problems))[start : start + in_flight]
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(one(number, problem)) for number, problem in chosen]
        except ExceptionGroup as several:
            raise several.exceptions[0] from several
        groups += [task.result() for task in running]
        ctx.publish("evaluating", {"done": len(groups), "of": len(problems)})
    if failed and len(failed) == len(problems):
        raise failed[0]
    if failed:
        message = "held-out problems failed and are left out; test/rollout_errors/groups counts them"
        facts = {"count": len(failed), "error": str(failed[0])}
        ctx.emit(EventType.LOG, {"level": "warning", "message": message, **facts})
    return groups
