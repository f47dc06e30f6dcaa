"""Rollouts of whole batches: started together, ahead of training where asked, awaited in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from crucible_ir import CrucibleError, DataError, TrainError
from crucible_kitchen.stages.sampler import FreshSampler
from crucible_train.ports import SamplingClient
from crucible_train.rl import Complete, EnvGroupBuilder, RLDataset, TrajectoryGroup, rollout_group
from crucible_train.types import ModelInput, SampledSequence, SamplingParams, StopCondition

__all__ = ["FailedGroup", "RolledGroup", "RolloutPool", "RolloutSettings", "acted", "policy"]

Rng = Callable[[str, int], np.random.Generator]
"""A generator for a purpose at a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """How the policy acts. ``ahead`` batches are started before those they come after are trained on."""

    max_tokens: int
    temperature: float = 1.0
    max_turns: int | None = None
    ahead: int = 0
    drop_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledGroup:
    """A finished group, and the version of the weights that it was sampled with."""

    group: TrajectoryGroup
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedGroup:
    """A group whose environment or sampler failed."""

    error: CrucibleError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Groups under way; a place is None where its group failed and would begin anew."""

    builders: Sequence[EnvGroupBuilder]
    sampler: SamplingClient
    version: int
    tasks: list[asyncio.Task[TrajectoryGroup] | None]


def policy(sampler: SamplingClient, settings: RolloutSettings, rng: np.random.Generator) -> Complete:
    """Asks ``sampler``, each time with a seed of its own drawn from ``rng``."""

    async def complete(observation: ModelInput, stop: StopCondition) -> SampledSequence:
        params = SamplingParams(
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=int(rng.integers(2**31)),
            stop=stop,
        )
        return (await sampler.sample(observation, params)).sequences[0]

    return complete


async def acted(
    builder: EnvGroupBuilder, complete_for: Callable[[int], Complete], *, max_turns: int | None
) -> TrajectoryGroup:
    """A group of finished episodes; environments are foreign code, whose errors come out as ours.

    Raises:
        CrucibleError: as it was raised.
        DataError: a reward is not finite.
        TrainError: anything else was raised.
    """
    try:
        group = await rollout_group(builder, complete_for, max_turns=max_turns)
    except CrucibleError:
        raise
    except Exception as error:  # environments are foreign code
        raise TrainError(
            what=f"a rollout raised {type(error).__name__}: {error}",
            where=type(builder).__name__,
            remedy="correct the environment; on_error=drop leaves out the groups that fail",
        ) from error
    _require_finite(group, type(builder).__name__)
    return group


def _require_finite(group: TrajectoryGroup, where: str) -> None:
    """One reward that is no number would spoil all weights."""
    for member, (trajectory, final) in enumerate(zip(group.trajectories, group.final_rewards, strict=True)):
        reward = None if trajectory.reward is None else trajectory.reward + final
        if reward is not None and not math.isfinite(reward):
            raise DataError(
                what=f"the reward of member {member} is {reward}",
                where=where,
                remedy="give a finite number, or None for what cannot be judged",
            )


class RolloutPool:
    """The groups of batch ``step`` of a dataset, sampled with the weights of step ``max(0, step - ahead)``.

    Which weights a batch is sampled with depends on its number alone, never on timing, and what a member draws
    on its batch, group and place. Only where training goes on from a checkpoint do the batches that were under
    way then start again with the weights of the checkpoint.
    """

    def __init__(
        self, dataset: RLDataset, sampler: FreshSampler, settings: RolloutSettings, *, rng: Rng, total: int
    ) -> None:
        self._dataset = dataset
        self._sampler = sampler
        self._settings = settings
        self._rng = rng
        self._total = total
        self._started: dict[int, _Batch] = {}
        self._next: int | None = None

    @property
    def ahead(self) -> int:
        """Iterations that the sampling weights may lag behind."""
        return self._settings.ahead

    async def groups(self, step: int, *, part: int = 0, parts: int = 1) -> list[RolledGroup | FailedGroup]:
        """Await one of ``parts`` near-equal shares of the groups of batch ``step``; starts what may be started.

        Asked again before the batch is released, a group that failed or was cancelled begins anew with the weights
        and the seeds that it had; one that is finished is what it was.

        Raises:
            CrucibleError: a group failed and failures are not dropped.
        """
        await self._start(step)
        batch = self._started[step]
        finished: list[RolledGroup | FailedGroup] = []
        count = len(batch.tasks)
        for g in range(part * count // parts, (part + 1) * count // parts):
            task = batch.tasks[g] or self._begin(batch, step, g)
            try:
                finished.append(RolledGroup(group=await task, version=batch.version))
            except CrucibleError as error:
                batch.tasks[g] = None
                if not self._settings.drop_failed:
                    raise
                finished.append(FailedGroup(error=error))
            except asyncio.CancelledError:
                batch.tasks[g] = None  # who awaits it was stopped, and the group with it
                raise
        return finished

    async def release(self, step: int) -> None:
        """Forget a batch whose groups are all taken."""
        await self._sampler.give_back(self._started.pop(step).version)

    async def aclose(self) -> None:
        """Cancel what is under way; closing twice is harmless."""
        tasks = [task for batch in self._started.values() for task in batch.tasks if task is not None]
        self._started.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self, step: int) -> None:
        first = step if self._next is None else self._next
        end = min(step + self._settings.ahead + 1, self._total)
        for index in range(first, end):
            sampler = await self._sampler.take(step)
            builders = self._dataset.get_batch(index % len(self._dataset))
            batch = _Batch(builders=builders, sampler=sampler, version=step, tasks=[None] * len(builders))
            for g in range(len(builders)):
                self._begin(batch, index, g)
            self._started[index] = batch
            self._next = index + 1

    def _begin(self, batch: _Batch, index: int, g: int) -> asyncio.Task[TrajectoryGroup]:
        def complete_for(member: int) -> Complete:
            return policy(batch.sampler, self._settings, self._rng(f"rollout/{g}/{member}", index))

        task = asyncio.create_task(acted(batch.builders[g], complete_for, max_turns=self._settings.max_turns))
        batch.tasks[g] = task
        return task
