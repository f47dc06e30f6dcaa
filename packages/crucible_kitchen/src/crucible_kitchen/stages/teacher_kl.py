"""How far a student's samples are from its teachers, over the parts of an iteration."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crucible_kitchen.stages.scoring import score_targets
from crucible_kitchen.stages.sources import Source
from crucible_kitchen.stages.teacher import Teacher
from crucible_train.rl import TrajectoryGroup
from crucible_train.types import Datum

__all__ = ["TeacherKl", "score_by_teacher", "source_of", "taught_tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherKl:
    """Sums of log-ratios and numbers of tokens so far in iteration ``step``: of all (``None``) and of each source."""

    step: int
    parts: Mapping[int | None, tuple[float, float]]

    def plus(self, parts: Mapping[int | None, tuple[float, float]]) -> TeacherKl:
        """With the sums and numbers of another part."""
        both = dict(self.parts)
        for key, (total, tokens) in parts.items():
            before = both.get(key, (0.0, 0.0))
            both[key] = (before[0] + total, before[1] + tokens)
        return TeacherKl(step=self.step, parts=both)

    def metrics(self) -> dict[str, float]:
        """Means per token under upstream's names: ``teacher_kl``, ``teacher_kl/dataset_<i>``."""
        return {
            "teacher_kl" if key is None else f"teacher_kl/dataset_{key}": total / tokens
            for key, (total, tokens) in self.parts.items()
            if tokens
        }


def source_of(group: TrajectoryGroup, sources: Sequence[Source]) -> int:
    """The number of the source whose name the group carries."""
    names = [source.name for source in sources]
    return names.index(group.tags[0])


async def score_by_teacher(
    teachers: Sequence[Teacher], data_D: Sequence[Datum], source_D: Sequence[int]
) -> list[NDArray[np.float32]]:
    """Log-probability that each datum's teacher gives to its targets, (N,) each; all are asked at once."""
    numbers = sorted(set(source_D))
    places = {number: [d for d, source in enumerate(source_D) if source == number] for number in numbers}
    scored = await asyncio.gather(
        *(score_targets(teachers[n].sampler, [data_D[d] for d in places[n]]) for n in numbers)
    )
    found = {
        d: array
        for n, arrays in zip(numbers, scored, strict=True)
        for d, array in zip(places[n], arrays, strict=True)
    }
    return [found[d] for d in range(len(data_D))]


def taught_tokens(
    data_D: Sequence[Datum], ratios_D: Sequence[NDArray[np.float32]], source_D: Sequence[int]
) -> dict[int | None, tuple[float, float]]:
    """Sum of log-ratios and number of sampled tokens, of all data (``None``) and of each source."""
    found: dict[int | None, tuple[float, float]] = {None: (0.0, 0.0)}
    for datum, ratios, source in zip(data_D, ratios_D, source_D, strict=True):
        tokens = float(np.count_nonzero(datum.loss_fn_inputs["mask"].array))
        total = float(ratios.sum(dtype=np.float64))
        for key in (None, source):
            before = found.get(key, (0.0, 0.0))
            found[key] = (before[0] + total, before[1] + tokens)
    return found
