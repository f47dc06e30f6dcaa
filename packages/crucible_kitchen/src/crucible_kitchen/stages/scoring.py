"""Log-probabilities that a sampler gives to the targets of datums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crucible_train.ports import SamplingClient
from crucible_train.rl import scored_input, target_logprobs
from crucible_train.types import Datum

__all__ = ["score_targets"]


async def score_targets(sampler: SamplingClient, data_D: Sequence[Datum]) -> list[NDArray[np.float32]]:
    """Log-probability of every target of every datum, (N,) each; all are submitted before the first is awaited."""
    handles = [sampler.compute_logprobs(scored_input(datum)) for datum in data_D]
    return [target_logprobs(await handle) for handle in handles]
