"""Batches that hold groups of several sources, each with the name of its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crucible_train.rl import Env, EnvGroupBuilder, RLDataset, Trajectory

__all__ = ["MixedGroups", "NamedGroup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedGroup:
    """A group whose figures are reported under the name of its source, and which is known by it."""

    group: EnvGroupBuilder
    source: str

    async def make_envs(self) -> Sequence[Env]:
        """Those of the group."""
        return await self.group.make_envs()

    async def compute_group_rewards(
        self, trajectories_G: Sequence[Trajectory], envs_G: Sequence[Env]
    ) -> Sequence[tuple[float, Mapping[str, float]]]:
        """Those of the group."""
        return await self.group.compute_group_rewards(trajectories_G, envs_G)

    def logging_tags(self) -> Sequence[str]:
        """The source alone."""
        return [self.source]


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedGroups:
    """Batch i holds batch i of every source, in order; there are as many as the shortest source has."""

    parts: Mapping[str, RLDataset]

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """The groups of one batch."""
        return [
            NamedGroup(group=group, source=source)
            for source, part in self.parts.items()
            for group in part.get_batch(index)
        ]

    def __len__(self) -> int:
        """Number of batches."""
        return min(map(len, self.parts.values()), default=0)
