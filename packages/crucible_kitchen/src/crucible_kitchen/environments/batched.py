"""Problems in a given order, cut into batches, and batches without a partial one at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crucible_train.rl import EnvGroupBuilder, ProblemEnv, ProblemGroup, RLDataset

__all__ = ["BatchedProblems", "whole_batches"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _First:
    """The first ``count`` batches of a dataset."""

    dataset: RLDataset
    count: int

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """The groups of one batch."""
        return self.dataset.get_batch(index)

    def __len__(self) -> int:
        """Number of batches."""
        return self.count


def whole_batches(dataset: RLDataset, batch_size: int) -> RLDataset:
    """The dataset without its last batch, where that holds fewer than ``batch_size`` groups."""
    last = len(dataset) - 1
    whole = last < 0 or len(dataset.get_batch(last)) >= batch_size
    return dataset if whole else _First(dataset=dataset, count=last)
