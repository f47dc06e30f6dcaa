"""The port of a model that is asked for text."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from crucible_train.ports.handle import Handle
from crucible_train.types import ModelInput, SampleResponse, SamplingParams

__all__ = ["SamplingClient"]


@runtime_checkable
class SamplingClient(Protocol):
    """Fixed weights that sample continuations and score given text."""

    def sample(
        self,
        prompt: ModelInput,
        params: SamplingParams,
        *,
        num_samples: int = 1,
        include_prompt_logprobs: bool = False,
    ) -> Handle[SampleResponse]:
        """``num_samples`` continuations; log-probabilities are those at temperature 1."""
        ...

    def compute_logprobs(self, prompt: ModelInput) -> Handle[tuple[float | None, ...]]:
        """Log-probability of each token given those before it; None at the first position."""
        ...

    async def close(self) -> None:
        """Free what the client holds; closing twice is harmless."""
        ...
