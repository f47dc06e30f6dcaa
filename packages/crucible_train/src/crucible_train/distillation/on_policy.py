"""On-policy distillation: advantages that pull the student's own samples towards a teacher.

Array suffix: D datums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import DataError
from crucible_train.rl import add_to_advantages, log_ratios, masked_mean
from crucible_train.types import Datum

__all__ = ["incorporate_teacher_kl"]


def incorporate_teacher_kl(
    data_D: Sequence[Datum],
    teacher_D: Sequence[NDArray[np.floating]],
    *,
    coef: float = 1.0,
    discount: float = 0.0,
    dataset_D: Sequence[int] | None = None,
) -> tuple[list[Datum], Mapping[str, float]]:
    """A −= coef·mask·(student − teacher), not centred; with a discount, its discounted sum over the future.

    ``student`` is the sampler's log-probability that each datum has under ``logprobs``; ``teacher_D[i]`` (N,) are
    the teacher's for the same targets, and ``dataset_D[i]`` says whose prompts datum i comes from. Reports
    ``teacher_kl``, the mean of student − teacher over masked tokens (an estimate of the reverse KL), and
    ``teacher_kl/dataset_<i>`` for each data set.

    Raises:
        DataError: the arrays do not fit the datums.
        ConfigError: a discount outside [0, 1].
    """
    ratios = log_ratios(data_D, teacher_D)
    metrics = {"teacher_kl": masked_mean(data_D, ratios)}
    if dataset_D is not None and len(dataset_D) != len(data_D):
        raise DataError(
            what=f"{len(dataset_D)} data sets for {len(data_D)} datums",
            where="incorporate_teacher_kl.dataset_D",
            remedy="give one number per datum",
        )
    for dataset in sorted(set(dataset_D or ())):
        chosen = [i for i, one in enumerate(dataset_D or ()) if one == dataset]
        found = masked_mean([data_D[i] for i in chosen], [ratios[i] for i in chosen])
        metrics[f"teacher_kl/dataset_{dataset}"] = found
    extra = [np.float32(-coef) * ratio for ratio in ratios]
    return add_to_advantages(data_D, extra, discount), metrics
