"""What a model acts in, how groups of it are made, and how batches of groups are had."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from crucible_train.rl.trajectory import StepResult, Trajectory
from crucible_train.types import ModelInput, SampledSequence, StopCondition

__all__ = ["Complete", "Env", "EnvGroupBuilder", "RLDataset"]

Complete = Callable[[ModelInput, StopCondition], Awaitable[SampledSequence]]
"""Asks a model to go on from an observation until a stop condition."""


@runtime_checkable
class Env(Protocol):
    """One episode of one problem; used once."""

    async def initial_observation(self) -> tuple[ModelInput, StopCondition]:
        """What the model reads first, and where its answer stops."""
        ...

    async def step(self, action: SampledSequence) -> StepResult:
        """What comes of the model's answer."""
        ...


@runtime_checkable
class EnvGroupBuilder(Protocol):
    """Makes the environments of one group: the same problem for every member, so that rewards can be compared."""

    async def make_envs(self) -> Sequence[Env]:
        """One environment per member of the group."""
        ...

    async def compute_group_rewards(
        self, trajectories_G: Sequence[Trajectory], envs_G: Sequence[Env]
    ) -> Sequence[tuple[float, Mapping[str, float]]]:
        """A reward and metrics per trajectory, added to those of its turns; may compare the members."""
        ...

    def logging_tags(self) -> Sequence[str]:
        """Names under which the group's metrics are reported besides ``all``."""
        ...


@runtime_checkable
class RLDataset(Protocol):
    """Batches of groups by number, so that a resumed run takes up where it stopped."""

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """The groups of one batch; the same for the same number."""
        ...

    def __len__(self) -> int:
        """Number of batches."""
        ...
