"""Datums whose targets are the likeliest tokens of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from crucible_ir import ServiceError
from crucible_kitchen.stages.teacher import Teacher
from crucible_train.distillation import soft_target_datum
from crucible_train.rl import scored_input
from crucible_train.types import Datum, SamplingParams

__all__ = ["soft_targets"]


async def soft_targets(
    teachers_D: Sequence[Teacher], data_D: Sequence[Datum], *, n_targets: int, in_flight: int
) -> list[Datum]:
    """Each datum with up to ``n_targets`` targets per position, (N, K); its weights stay as they are.

    Teacher i reads the whole of datum i. ``in_flight`` requests are submitted before the oldest is awaited.

    Raises:
        ServiceError: a teacher does not say which tokens are likeliest.
    """
    params = SamplingParams(max_tokens=1, seed=0, stop=[])
    asked = (
        (
            datum,
            teacher,
            teacher.sampler.sample(scored_input(datum), params, topk_prompt_logprobs=n_targets),
        )
        for teacher, datum in zip(teachers_D, data_D, strict=True)
    )
    pending, made = list(islice(asked, in_flight)), list[Datum]()
    while pending:
        datum, teacher, handle = pending.pop(0)
        likeliest = (await handle).topk_prompt_logprobs
        if likeliest is None:
            raise ServiceError(
                what=f"teacher {teacher.name!r} does not say which tokens are likeliest",
                where="soft_targets",
                remedy="use a backend whose capabilities name topk_prompt_logprobs, or set n_teacher_targets=0",
            )
        made.append(soft_target_datum(datum, likeliest, n_targets))
        pending.extend(islice(asked, 1))
    return made
