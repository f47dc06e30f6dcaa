"""Sampling requests: what is asked of a sampling client, and its answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from crucible_gateway.tinker.bodies import Sample
from crucible_gateway.tinker.codec import prompt_from_json, sample_to_proto
from crucible_gateway.tinker.metrics import Meters
from crucible_gateway.tinker.overload import Backlog
from crucible_gateway.tinker.promises import Outcome, Promise, Promises, failure
from crucible_gateway.tinker.samplers import SamplerPool
from crucible_gateway.tinker.settings import TinkerSettings
from crucible_ir import ConfigError
from crucible_train.types import ModelInput, SampleResponse, SamplingParams

__all__ = ["CLONE", "SamplingWork", "group_of"]

CLONE = 1_000_000_000
"""Request numbers of each process that samples for one session."""
_NOT_SERVED = {
    "topk_sample_logprobs": "the likeliest tokens at sampled positions",
    "prompt_alt_tokens_k": "alternatives to the prompt's tokens",
}


def group_of(sampler_id: str, clone: int) -> str:
    """The name under which one process polls its results."""
    return f"{sampler_id}#{clone}"


class SamplingWork:
    """Runs sampling requests, each in a task of its own; the engine decides in which order."""

    def __init__(
        self,
        samplers: SamplerPool,
        promises: Promises,
        backlog: Backlog,
        settings: TinkerSettings,
        meters: Meters,
    ) -> None:
        self._samplers = samplers
        self._promises = promises
        self._backlog = backlog
        self._settings = settings
        self._meters = meters
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._unnumbered = 0

    def submit(self, sampler_id: str, body: Sample) -> Promise:
        """Promise samples; a request that comes again has the promise that it had.

        Raises:
            OverloadedError: too many are not done.
            NotFoundError: no such sampler.
            ConfigError: more samples than one request may ask for.
        """
        self._samplers.find(sampler_id)
        most = self._settings.limits.num_samples
        if body.num_samples > most:  # before anything is made for each of them
            raise ConfigError(
                what=f"num_samples = {body.num_samples}",
                where="num_samples",
                remedy=f"ask for {most} at most, and for the rest in further requests",
            )
        number = body.seq_id
        if number is None:
            self._unnumbered += 1
            number = -self._unnumbered
        id = f"{sampler_id}:{number}"
        known = self._promises.find(id)
        if known is not None:
            return known
        self._backlog.admit_sample()
        promise = self._promises.open(id, group=group_of(sampler_id, max(number, 0) // CLONE))
        self._backlog.samples += 1
        task = asyncio.create_task(self._run(sampler_id, body, promise), name=f"sample {id}")
        self._tasks[id] = task
        task.add_done_callback(lambda _: self._tasks.pop(id, None))
        return promise

    def cancel(self, id: str) -> None:
        """Give up on samples; what the engine has begun it ends."""
        task = self._tasks.get(id)
        if task is not None:
            task.cancel()
        self._promises.forget([id])

    async def close(self) -> None:
        """Give up on everything."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, sampler_id: str, body: Sample, promise: Promise) -> None:
        try:
            prompt = await asyncio.to_thread(prompt_from_json, body.prompt)
            params = self._params(sampler_id, body, prompt)
            async with self._samplers.using(sampler_id) as client:
                wants_prompt = bool(body.prompt_logprobs)
                more = (
                    {"topk_prompt_logprobs": body.topk_prompt_logprobs} if body.topk_prompt_logprobs else {}
                )
                handle = await asyncio.to_thread(
                    client.sample,
                    prompt,
                    params,
                    num_samples=body.num_samples,
                    include_prompt_logprobs=wants_prompt,
                    **more,
                )
                response = _suffix(await handle, body.prompt_logprobs_last_n)
            self._meters.sampled(sum(len(s.tokens) for s in response.sequences), prompt.length)
            encoded = await asyncio.to_thread(sample_to_proto, response)
            self._promises.settle(promise, Outcome(form="sample", body=encoded))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the promise's result
            self._promises.settle(promise, failure(error))
        finally:
            self._backlog.samples -= 1

    def _params(self, sampler_id: str, body: Sample, prompt: ModelInput) -> SamplingParams:
        for name, what in _NOT_SERVED.items():
            if getattr(body, name):
                raise ConfigError(what=f"this server does not give {what}", where=name, remedy="leave it out")
        if body.target_prompt_logprobs is not None:
            raise ConfigError(
                what="this server scores the prompt's own tokens alone",
                where="target_prompt_logprobs",
                remedy="leave it out, or score each candidate in a prompt of its own",
            )
        if body.record_stability_info:
            raise ConfigError(
                what="stability info is not recorded",
                where="record_stability_info",
                remedy="it serves stable_reinforce, which has no public formula; take importance_sampling",
            )
        last = body.prompt_logprobs_last_n
        if last is not None and not 1 <= last < prompt.length:
            raise ConfigError(
                what=f"prompt_logprobs_last_n = {last} of a prompt of {prompt.length}",
                where="prompt_logprobs_last_n",
                remedy="give 1 to the prompt's length less one",
            )
        asked = body.sampling_params
        if asked.seed is not None and asked.seed < 0:
            raise ConfigError(what=f"seed = {asked.seed}", where="seed", remedy="give 0 or more")
        stop = asked.stop if isinstance(asked.stop, str) or asked.stop is None else list(asked.stop)
        return SamplingParams(
            max_tokens=self._max_tokens(sampler_id, asked.max_tokens, prompt.length),
            seed=asked.seed,
            stop=stop,  # type: ignore[arg-type]  # all texts or all numbers, as the body was checked
            temperature=asked.temperature,
            top_k=-1 if asked.top_k in (0, -1) else asked.top_k,
            top_p=asked.top_p,
        )

    def _max_tokens(self, sampler_id: str, asked: int | None, prompt: int) -> int:
        if asked is not None:
            most = self._settings.limits.max_tokens
            if asked > most:
                raise ConfigError(
                    what=f"max_tokens = {asked}", where="max_tokens", remedy=f"ask for {most} at most"
                )
            return asked
        model = self._settings.model(str(self._samplers.find(sampler_id)["base_model"]))
        if model is None or model.max_length is None:
            return self._settings.limits.default_max_tokens
        if prompt >= model.max_length:
            raise ConfigError(
                what=f"a prompt of {prompt} tokens",
                where="prompt",
                remedy=f"{model.name} takes {model.max_length} with the continuation",
            )
        return model.max_length - prompt


def _suffix(response: SampleResponse, last: int | None) -> SampleResponse:
    """The response with prompt log-probabilities of the last positions alone, if that was asked for."""
    if last is None or response.prompt_logprobs is None:
        return response
    hidden = len(response.prompt_logprobs) - last
    logprobs = (*([None] * hidden), *response.prompt_logprobs[hidden:])
    top = response.topk_prompt_logprobs
    shown = None if top is None else (*([None] * hidden), *top[hidden:])
    return replace(response, prompt_logprobs=logprobs, topk_prompt_logprobs=shown)
