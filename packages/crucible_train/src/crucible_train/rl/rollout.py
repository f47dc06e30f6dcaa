"""Let a model act in environments until every episode is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from crucible_ir.errors import DataError
from crucible_train.rl.environment import Complete, Env, EnvGroupBuilder
from crucible_train.rl.trajectory import Trajectory, TrajectoryGroup, Transition

__all__ = ["rollout", "rollout_group"]


async def rollout(env: Env, complete: Complete, *, max_turns: int | None = None) -> Trajectory:
    """One episode: observe, sample, step, until the environment says that it is over.

    An episode of ``max_turns`` turns ends there, with the rewards it has.
    """
    observation, stop = await env.initial_observation()
    transitions: list[Transition] = []
    while max_turns is None or len(transitions) < max_turns:
        action = await complete(observation, stop)
        result = await env.step(action)
        transitions.append(
            Transition(
                observation=observation,
                action=action,
                reward=result.reward,
                episode_done=result.episode_done,
                masked=result.masked,
                metrics=result.metrics,
                logs=result.logs,
            )
        )
        observation, stop = result.next_observation, result.next_stop
        if result.episode_done:
            break
    return Trajectory(transitions=tuple(transitions), final_observation=observation)


async def rollout_group(
    builder: EnvGroupBuilder, complete_for: Callable[[int], Complete], *, max_turns: int | None = None
) -> TrajectoryGroup:
    """All members of one group at the same time, with their group rewards and tags.

    ``complete_for(g)`` asks the model on behalf of member g, so that each may draw from a stream of its own.
    Where a member fails, the others are cancelled and its error is raised.

    Raises:
        DataError: the builder does not give one group reward per member.
    """
    envs = await builder.make_envs()
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(rollout(env, complete_for(g), max_turns=max_turns))
                for g, env in enumerate(envs)
            ]
    except ExceptionGroup as several:
        raise several.exceptions[0] from several
    trajectories = [task.result() for task in running]
    rewards = await builder.compute_group_rewards(trajectories, envs)
    if len(rewards) != len(envs):
        raise DataError(
            what=f"{len(rewards)} group rewards for {len(envs)} members",
            where="EnvGroupBuilder.compute_group_rewards",
            remedy="give one reward and one set of metrics per trajectory",
        )
    return TrajectoryGroup(
        trajectories=tuple(trajectories),
        final_rewards=tuple(float(reward) for reward, _ in rewards),
        metrics=tuple(metrics for _, metrics in rewards),
        tags=tuple(builder.logging_tags()),
    )
