"""Problems in a given order, cut into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crucible_train.rl import EnvGroupBuilder, ProblemEnv, ProblemGroup

__all__ = ["BatchedProblems"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedProblems:
    """Batches of ``batch_size`` problems, each tried by ``group_size`` members; the last may hold fewer."""

    problems: Sequence[ProblemEnv]
    batch_size: int
    group_size: int
    dataset_name: str

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """The groups of one batch."""
        start = index * self.batch_size
        return [
            ProblemGroup(env=problem, num_envs=self.group_size, dataset_name=self.dataset_name)
            for problem in self.problems[start : start + self.batch_size]
        ]

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.problems) // self.batch_size)
