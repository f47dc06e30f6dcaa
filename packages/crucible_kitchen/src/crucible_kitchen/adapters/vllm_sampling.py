"""The sampling port over a vLLM server: token ids in, token ids and log-probabilities out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from crucible_ir.errors import ConfigError, ConflictError, ServiceError
from crucible_kitchen.adapters.vllm_server import Choice, Completion, VllmServer
from crucible_train.ports import Handle
from crucible_train.types import (
    ImageChunk,
    ModelInput,
    SampledSequence,
    SampleResponse,
    SamplingParams,
    TopLogprobs,
)

__all__ = ["VllmSampler"]

T = TypeVar("T")

_MOST_LIKELIEST = 10_000


class VllmSampler:
    """Fixed weights that a vLLM server holds under ``model``: the base model's name, or a loaded adapter's.

    Samples of a request with a seed are requests of their own, each with a seed made of (seed, i): the number of
    samples changes none of them. That a seed gives the same tokens whatever else the server computes is for the
    server to promise; vLLM does not by default. Log-probabilities are those at temperature 1 where the server has
    its default ``--logprobs-mode raw_logprobs``.
    """

    def __init__(self, server: VllmServer, model: str, *, most_at_once: int = 64) -> None:
        self._server = server
        self._model = model
        self._longest = server.longest(model)
        self._threads = ThreadPoolExecutor(max_workers=most_at_once, thread_name_prefix="vllm")
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
        """``num_samples`` continuations; the prompt is asked about with the first of them.

        Raises:
            ConfigError: an empty prompt, an image, no samples, too many tokens, or a number of likeliest tokens
                that cannot be.
            ConflictError: the client is closed.
        Raises (from the handle):
            ConfigError, NotFoundError, ServiceError: as ``VllmServer.complete``.
        """
        tokens = self._tokens(prompt, params.max_tokens)
        if num_samples < 1:
            raise ConfigError(
                what=f"num_samples = {num_samples}", where="sample", remedy="ask for at least 1"
            )
        if not 0 <= topk_prompt_logprobs <= _MOST_LIKELIEST:
            raise ConfigError(
                what=f"topk_prompt_logprobs = {topk_prompt_logprobs}",
                where="sample",
                remedy=f"give 0 to {_MOST_LIKELIEST}, and no more than the server's --max-logprobs",
            )
        likeliest = topk_prompt_logprobs if include_prompt_logprobs or topk_prompt_logprobs else None
        bodies = [self._body(tokens, params, index) for index in range(num_samples)]
        if likeliest is not None:
            bodies[0]["prompt_logprobs"] = likeliest
        first, *others = (self._threads.submit(self._server.complete, body) for body in bodies)

        def gathered() -> SampleResponse:
            choices = [_only(future.result()) for future in (first, *others)]
            return SampleResponse(
                sequences=tuple(_sequence(choice) for choice in choices),
                prompt_logprobs=_scores(choices[0], tokens) if include_prompt_logprobs else None,
                topk_prompt_logprobs=_likeliest(choices[0], topk_prompt_logprobs)
                if topk_prompt_logprobs
                else None,
            )

        return self._after(gathered, [first, *others])

    def compute_logprobs(self, prompt: ModelInput) -> Handle[tuple[float | None, ...]]:
        """Log-probability of each token given those before it; the server samples one token for it.

        Raises:
            ConfigError, ConflictError: as ``sample``.
        """
        tokens = self._tokens(prompt, 1)
        body = {**self._body(tokens, SamplingParams(max_tokens=1), 0), "prompt_logprobs": 0}
        asked = self._threads.submit(self._server.complete, body)
        return self._after(lambda: _scores(_only(asked.result()), tokens), [asked])

    async def close(self) -> None:
        """Take no more work; closing twice is harmless. The server keeps the weights."""
        self._closed = True
        self._threads.shutdown(wait=False)

    def _after(self, make: Callable[[], T], waited: Sequence[Any]) -> Handle[T]:
        """A handle of what ``make`` gives when all that is waited for is done; no thread waits for it."""
        whole: Handle[Any] = Handle(waited[0])
        for one in waited[1:]:
            whole = whole.chain(lambda _, one=one: Handle(one))  # type: ignore[misc]
        return whole.then(lambda _: make())

    def _tokens(self, prompt: ModelInput, new: int) -> list[int]:
        if self._closed:
            raise ConflictError(what="the sampler is closed", where="vLLM sampler", remedy="open another")
        if any(isinstance(chunk, ImageChunk) for chunk in prompt.chunks):
            raise ConfigError(what="an image", where="prompt", remedy="use a backend that takes images")
        tokens = prompt.to_ints()
        if not tokens:
            raise ConfigError(what="an empty prompt", where="prompt", remedy="give at least one token")
        if self._longest is not None and len(tokens) + new > self._longest:
            raise ConfigError(
                what=f"{len(tokens)} tokens and {new} new ones, but {self._model} has {self._longest} positions",
                where="prompt",
                remedy="shorten it, or start the server with a greater --max-model-len",
            )
        return tokens

    def _body(self, tokens: list[int], params: SamplingParams, index: int) -> dict[str, Any]:
        """The body of a request for one sample."""
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": tokens,
            "n": 1,
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        if params.seed is not None:
            body["seed"] = _seed_of(params.seed, index)
        if params.stop is None:
            return body
        items = [params.stop] if isinstance(params.stop, str) else list(params.stop)
        strings = [item for item in items if isinstance(item, str)]
        ids = [item for item in items if isinstance(item, int)]
        return {**body, "ignore_eos": not items, "stop": strings, "stop_token_ids": ids}


def _seed_of(seed: int, index: int) -> int:
    """A seed below 2⁶³ for sample ``index``: neighbouring seeds share none, as those that vLLM counts up would."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:8], "big") >> 1


def _only(completion: Completion) -> Choice:
    if len(completion.choices) != 1:
        raise ServiceError(
            what=f"vLLM gave {len(completion.choices)} choices for one",
            where="vLLM sampler",
            remedy="see the server's log",
        )
    return completion.choices[0]


def _sequence(choice: Choice) -> SampledSequence:
    logprobs = None if choice.logprobs is None else choice.logprobs.token_logprobs
    if logprobs is None or len(logprobs) != len(choice.token_ids) or not choice.token_ids:
        raise ServiceError(
            what="vLLM gave no log-probability for every sampled token",
            where="vLLM sampler",
            remedy="use a vLLM that knows return_token_ids",
        )
    if choice.finish_reason not in ("stop", "length"):
        raise ServiceError(
            what=f"vLLM ended a sequence with {choice.finish_reason!r}",
            where="vLLM sampler",
            remedy="ask again",
            retryable=True,
        )
    return SampledSequence(
        tokens=tuple(choice.token_ids),
        logprobs=tuple(logprobs),
        stop_reason="stop" if choice.finish_reason == "stop" else "length",
    )


def _scores(choice: Choice, tokens: list[int]) -> tuple[float | None, ...]:
    found = choice.prompt_logprobs or []
    if len(found) != len(tokens) or any(
        at is None or token not in at for at, token in zip(found[1:], tokens[1:], strict=True)
    ):
        raise ServiceError(
            what="vLLM did not score every token of the prompt",
            where="vLLM sampler",
            remedy="see the server's log",
        )
    scores = (at[token].logprob for at, token in zip(found[1:], tokens[1:], strict=True) if at is not None)
    return (None, *scores)


def _likeliest(choice: Choice, count: int) -> tuple[TopLogprobs | None, ...]:
    found = choice.prompt_logprobs or []
    positions: list[TopLogprobs | None] = [None]
    for at in found[1:]:
        ranked = sorted(((token, score.logprob) for token, score in (at or {}).items()), key=_by_score)
        positions.append(tuple(ranked[:count]))
    return tuple(positions)


def _by_score(pair: tuple[int, float]) -> tuple[float, int]:
    return -pair[1], pair[0]
