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
        topk_prompt_logprobs: int = 0,
    ) -> Handle[SampleResponse]:
        """``num_samples`` continuations; log-probabilities are those at temperature 1.

        ``topk_prompt_logprobs`` K > 0 also asks, at every position of the prompt but the first, for the K likeliest
        tokens given those before it.

        Raises:
            ConfigError: K is negative or beyond the vocabulary, or the backend's capabilities do not name
                topk_prompt_logprobs.
        """
        ...

    def compute_logprobs(self, prompt: ModelInput) -> Handle[tuple[float | None, ...]]:
        """Log-probability of each token given those before it; None at the first position."""
        ...

    async def close(self) -> None:
        """Free what the client holds; closing twice is harmless."""
        ...
