"""The sampling port over the SDK: one request each, tried again where that does no harm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crucible_ir.errors import ConflictError
from crucible_kitchen.adapters.tinker_cost import Tokens
from crucible_kitchen.adapters.tinker_errors import explained
from crucible_kitchen.adapters.tinker_service import Service
from crucible_kitchen.adapters.tinker_types import sdk_input, sdk_sampling, to_prompt_logprobs, to_response
from crucible_train.ports import Handle
from crucible_train.types import ModelInput, SampleResponse, SamplingParams

if TYPE_CHECKING:
    import tinker

__all__ = ["TinkerSampler"]


class TinkerSampler:
    """Fixed weights on the service.

    Samples change nothing there, so a call that failed in passing is made again; without a seed it then gives other
    samples, as any call would.
    """

    def __init__(self, sdk: tinker.SamplingClient, base_model: str, service: Service) -> None:
        self._sdk = sdk
        self._model = base_model
        self._service = service
        self._longest = service.limits().model(base_model).max_length
        self._closed = False

    def sample(
        self,
        prompt: ModelInput,
        params: SamplingParams,
        *,
        num_samples: int = 1,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
    ) -> Handle[SampleResponse]:
        """``num_samples`` continuations.

        Raises:
            ConfigError: an empty prompt, an image, a number of likeliest tokens that cannot be, or the spending cap.
            DataError: a prompt longer than the model reads.
            ConflictError: the client is closed.
        """
        self._ready(prompt)
        self._service.limits().check_likeliest(topk_prompt_logprobs)
        most = Tokens(prefilled=prompt.length, sampled=num_samples * params.max_tokens)
        reserved = self._service.ledger.reserve(self._model, most)

        def call() -> Any:
            return self._sdk.sample(
                prompt=sdk_input(prompt),
                num_samples=num_samples,
                sampling_params=sdk_sampling(params),
                include_prompt_logprobs=include_prompt_logprobs,
                topk_prompt_logprobs=topk_prompt_logprobs,
            )

        async def work() -> SampleResponse:
            result = await self._tried(call, "sample")
            response = to_response(result)
            sampled = sum(len(sequence.tokens) for sequence in response.sequences)
            self._service.ledger.settle(
                self._model, reserved, Tokens(prefilled=prompt.length, sampled=sampled)
            )
            return response

        return self._service.connection.send(work())

    def compute_logprobs(self, prompt: ModelInput) -> Handle[tuple[float | None, ...]]:
        """Log-probability of each token given those before it; the service samples one token for it.

        Raises:
            ConfigError, DataError, ConflictError: as ``sample``.
        """
        self._ready(prompt)
        used = Tokens(prefilled=prompt.length, sampled=1)
        reserved = self._service.ledger.reserve(self._model, used)

        async def work() -> tuple[float | None, ...]:
            scored = await self._tried(
                lambda: self._sdk.compute_logprobs(sdk_input(prompt)), "compute_logprobs"
            )
            self._service.ledger.settle(self._model, reserved, used)
            return to_prompt_logprobs(scored)

        return self._service.connection.send(work())

    async def close(self) -> None:
        """Take no more work; the weights stay with the service until its session ends."""
        self._closed = True

    def _ready(self, prompt: ModelInput) -> None:
        if self._closed:
            raise ConflictError(what="the sampler is closed", where="tinker sampler", remedy="open another")
        self._service.limits().check_input(prompt, self._longest, where="prompt")

    async def _tried(self, call: Callable[[], Any], where: str) -> Any:
        async def attempt() -> Any:
            try:
                return await asyncio.wrap_future(call().future())
            except Exception as error:
                raise explained(error, where=where, idempotent=True) from error

        return await self._service.retries.run(attempt)
