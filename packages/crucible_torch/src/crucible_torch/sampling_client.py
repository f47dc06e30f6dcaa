"""The sampling port over the engine: checks at once, work on the engine's thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

from crucible_ir.errors import ConfigError, ConflictError
from crucible_torch.adapter import Adapter
from crucible_torch.inference import Inference
from crucible_torch.model import LoadedModel
from crucible_torch.packing import IntArray, check_ids, text_tokens
from crucible_torch.requests import SampleRequest
from crucible_torch.sampling import SamplingPool
from crucible_torch.settings import EngineSettings
from crucible_torch.stopping import StopRule, stop_rule
from crucible_torch.worker import Worker
from crucible_train.ports import Handle, Tokenizer
from crucible_train.types import ModelInput, SampleResponse, SamplingParams

__all__ = ["TorchSamplingClient"]


class TorchSamplingClient:
    """Fixed weights over a model.

    Requests that wait are sampled together, and none is changed by it.

    Sample i of a request with a seed draws from a stream of its own, derived from (seed, i). Requests
    without a seed draw from streams derived from the client's entropy and the number of the request: they
    differ from each other, and two runs of the same program agree.
    """

    def __init__(
        self,
        model: LoadedModel,
        adapter: Adapter | None,
        *,
        worker: Worker,
        settings: EngineSettings,
        tokenizer: Callable[[], Tokenizer],
        entropy: Sequence[int] = (0,),
    ) -> None:
        inference = Inference(model, adapter, cached_bytes=settings.prefix_cache_mb << 20)
        self._pool: SamplingPool | None = SamplingPool(inference=inference, settings=settings)
        self._worker = worker
        self._tokenizer = tokenizer
        self._entropy = tuple(entropy)
        self._requests = count()

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

        Stop tokens and the tokens of a stop string are part of a sequence. ``stop`` of strings or ids ends
        at the model's end tokens too; [] never ends early.

        Raises:
            ConfigError: an empty prompt, an image, no samples, more tokens than the model has positions, or
                ``topk_prompt_logprobs`` outside 0 to the vocabulary's size.
            DataError: ids outside the vocabulary.
        """
        model = self._open().inference.model
        tokens = _prompt(prompt, model)
        _check_request(model, len(tokens), params.max_tokens, num_samples)
        if not 0 <= topk_prompt_logprobs <= model.vocab_size:
            raise ConfigError(
                what=f"topk_prompt_logprobs = {topk_prompt_logprobs}",
                where="sample",
                remedy=f"give 0 to {model.vocab_size}, the size of the vocabulary",
            )
        stop = stop_rule(params.stop, eos_ids=model.eos_ids, decoder=lambda: self._tokenizer().decode)
        request = SampleRequest(
            prompt=tokens,
            params=params,
            stop=stop,
            streams=self._streams(params.seed, num_samples),
            logprobs=include_prompt_logprobs,
            top=topk_prompt_logprobs,
            result=lambda response: response,
        )
        return self._share(request)

    def compute_logprobs(self, prompt: ModelInput) -> Handle[tuple[float | None, ...]]:
        """Log-probability of each token given those before it; None at the first position.

        Raises:
            ConfigError: an empty prompt, an image, or more tokens than the model has positions.
            DataError: ids outside the vocabulary.
        """
        request = SampleRequest(
            prompt=_prompt(prompt, self._open().inference.model),
            params=SamplingParams(),
            stop=StopRule(ids=frozenset()),
            streams=(),
            logprobs=True,
            result=lambda response: response.prompt_logprobs,
        )
        return self._share(request)

    async def close(self) -> None:
        """Free what the client holds; closing twice is harmless."""
        self._pool = None

    def _open(self) -> SamplingPool:
        if self._pool is None:
            raise ConflictError(
                what="the sampling client is closed", where="SamplingClient", remedy="make a new one"
            )
        return self._pool

    def _share(self, request: SampleRequest) -> Handle[Any]:
        self._worker.share(self._open(), request)
        return Handle(request.future)

    def _streams(self, seed: int | None, samples: int) -> list[np.random.Generator]:
        if seed is not None:
            base: tuple[int, ...] = (0, seed % 2**64)
        else:
            base = (1, *self._entropy, next(self._requests))
        return [
            np.random.Generator(np.random.PCG64(np.random.SeedSequence([*base, index])))
            for index in range(samples)
        ]


def _check_request(model: LoadedModel, prompt: int, max_tokens: int, num_samples: int) -> None:
    if num_samples < 1:
        raise ConfigError(what=f"num_samples = {num_samples}", where="sample", remedy="ask for at least 1")
    limit = model.max_positions
    if limit is not None and prompt + max_tokens > limit:
        raise ConfigError(
            what=f"a prompt of {prompt} tokens and max_tokens = {max_tokens} make {prompt + max_tokens}, "
            f"but the model has positions for {limit}",
            where="sample",
            remedy=f"shorten the prompt, or set max_tokens to {max(limit - prompt, 0)} or less",
        )


def _prompt(prompt: ModelInput, model: LoadedModel) -> IntArray:
    tokens = text_tokens(prompt.chunks, "prompt")
    if len(tokens) == 0:
        raise ConfigError(
            what="an empty prompt", where="prompt", remedy="give at least one token, such as the BOS token"
        )
    limit = model.max_positions
    if limit is not None and len(tokens) > limit:
        raise ConfigError(
            what=f"a prompt of {len(tokens)} tokens, but the model has positions for {limit}",
            where="prompt",
            remedy="shorten it",
        )
    check_ids("prompt", tokens, model.vocab_size, "prompt")
    return tokens
