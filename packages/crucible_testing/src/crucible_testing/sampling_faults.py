"""Faults of samplers: seeds, lengths, stops, and what they say of log-probabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crucible_testing.faulty import FaultySampler
from crucible_train.ports import Handle
from crucible_train.types import ModelInput, SampleResponse, SamplingParams

__all__ = [
    "CountDecides",
    "NeverGreedy",
    "OneSeedForNone",
    "OneTokenMore",
    "PromptOneShort",
    "ScaledLogprobs",
    "SeedsIgnored",
    "StopIgnored",
]


class SeedsIgnored(FaultySampler):
    """Every request draws anew."""

    def changed(self, params: SamplingParams, num_samples: int) -> SamplingParams:
        return replace(params, seed=None)


class OneSeedForNone(FaultySampler):
    """Requests without a seed have one."""

    def changed(self, params: SamplingParams, num_samples: int) -> SamplingParams:
        return replace(params, seed=0 if params.seed is None else params.seed)


class CountDecides(FaultySampler):
    """How many samples are asked for decides what they are."""

    def changed(self, params: SamplingParams, num_samples: int) -> SamplingParams:
        return replace(params, seed=None if params.seed is None else 1000 * num_samples + params.seed)


class NeverGreedy(FaultySampler):
    """Temperature 0 is taken for 1."""

    def changed(self, params: SamplingParams, num_samples: int) -> SamplingParams:
        return replace(params, temperature=params.temperature or 1.0)


class StopIgnored(FaultySampler):
    """Stop tokens stop nothing."""

    def changed(self, params: SamplingParams, num_samples: int) -> SamplingParams:
        return replace(params, stop=[] if params.stop else params.stop)


class OneTokenMore(FaultySampler):
    """max_tokens is off by one."""

    def changed(self, params: SamplingParams, num_samples: int) -> SamplingParams:
        return replace(params, max_tokens=params.max_tokens + 1)


class ScaledLogprobs(FaultySampler):
    """Samples carry log-probabilities of the distribution at their temperature (up to its normalisation)."""

    def sample(self, prompt: ModelInput, params: SamplingParams, **more: Any) -> Handle[SampleResponse]:
        answer = self.inner.sample(prompt, params, **more).result()
        scaled = tuple(
            replace(one, logprobs=tuple(v / (params.temperature or 1.0) for v in one.require_logprobs()))
            for one in answer.sequences
        )
        return Handle.completed(replace(answer, sequences=scaled))


class PromptOneShort(FaultySampler):
    """The first position is left out."""

    def compute_logprobs(self, prompt: ModelInput) -> Handle[tuple[float | None, ...]]:
        return Handle.completed(self.inner.compute_logprobs(prompt).result()[1:])
