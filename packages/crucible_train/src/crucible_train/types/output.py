"""What training and sampling calls return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import ServiceError
from crucible_train.types.tensor import TensorData

__all__ = ["ForwardBackwardOutput", "OptimStepOutput", "SampleResponse", "SampledSequence", "TopLogprobs"]

TopLogprobs = tuple[tuple[int, float], ...]
"""The likeliest tokens at one position and their log-probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBackwardOutput:
    """Per-datum outputs in the order of the data, and totals such as ``loss:sum``.

    The part of a metric's name after the colon says how pieces combine (sum, mean, min, max).
    """

    loss_fn_outputs: tuple[Mapping[str, TensorData], ...]
    metrics: Mapping[str, float]

    @property
    def logprobs(self) -> list[NDArray[np.float32]]:
        """Log-probability of each target token, one float32 array (N,) or (N, K) per datum."""
        return [out["logprobs"].array.astype(np.float32, copy=False) for out in self.loss_fn_outputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimStepOutput:
    """Totals of an optimiser step, such as ``unclipped_grad_l2:mean``."""

    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledSequence:
    """Sampled token ids, the log-probability of each under the model at temperature 1, and why it ended."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] | None = field(default=None)
    stop_reason: Literal["stop", "length"]

    def require_logprobs(self) -> tuple[float, ...]:
        """The log-probabilities.

        Raises:
            ServiceError: the sampler did not return any.
        """
        if self.logprobs is None:
            raise ServiceError(
                what="the sampler returned no log-probabilities",
                where="SampledSequence.logprobs",
                remedy="use a backend whose capabilities name sample_logprobs",
            )
        return self.logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleResponse:
    """Sequences of one prompt, and what was asked for about the prompt itself: None where it was not.

    Both have one entry per position, None at the first. ``prompt_logprobs`` is the log-probability of the token
    that stands there; ``topk_prompt_logprobs`` the likeliest tokens there and theirs, the likeliest first, equal
    ones by id.
    """

    sequences: tuple[SampledSequence, ...]
    prompt_logprobs: tuple[float | None, ...] | None = None
    topk_prompt_logprobs: tuple[TopLogprobs | None, ...] | None = None
