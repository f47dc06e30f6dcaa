"""Checks of sampling: seeds, lengths, stops, temperature 0."""

from __future__ import annotations

from dataclasses import replace

from crucible_kitchen.conformance.bench import Bench
from crucible_kitchen.conformance.check import Check, Mismatch, NotRun
from crucible_kitchen.conformance.material import PROMPT
from crucible_train.ports import SamplingClient
from crucible_train.types import ModelInput, SampledSequence, SamplingParams

__all__ = ["CHECKS"]

_NEEDS = ("sampling",)
_EXACT = "the same tokens"


async def _sample(
    sampler: SamplingClient, *, samples: int = 1, **settings: object
) -> tuple[SampledSequence, ...]:
    params = SamplingParams(**{"max_tokens": 8, "stop": [], **settings})  # type: ignore[arg-type]
    return (await sampler.sample(PROMPT, params, num_samples=samples)).sequences


def _tokens(sequences: tuple[SampledSequence, ...]) -> str:
    return " | ".join(" ".join(map(str, one.tokens)) for one in sequences)


def _require(holds: bool, *, expected: str, found: str, diagnosis: str) -> None:
    if not holds:
        raise Mismatch(expected=expected, found=found, diagnosis=diagnosis)


async def _same_seed(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    once, again = [await _sample(sampler, samples=2, seed=11) for _ in range(2)]
    found = f"{_tokens(once)}, then {_tokens(again)}"
    _require(
        [one.tokens for one in once] == [one.tokens for one in again],
        expected="one seed gives one answer",
        found=found,
        diagnosis="seeds are ignored",
    )
    return "two requests with seed 11 gave the same 2 × 8 tokens"


async def _other_seed(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    found = [await _sample(sampler, samples=2, seed=seed) for seed in (11, 12, 13)]
    told = {_tokens(one) for one in found}
    _require(
        len(told) == len(found),
        expected="other seeds give other answers",
        found="; ".join(_tokens(one) for one in found),
        diagnosis="every seed is taken for the same, or sampling is greedy",
    )
    return "seeds 11, 12 and 13 gave three answers"


async def _without_seed(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    found = [await _sample(sampler, max_tokens=16) for _ in range(2)]
    _require(
        found[0][0].tokens != found[1][0].tokens,
        expected="requests without a seed differ",
        found=f"twice {_tokens(found[0])}",
        diagnosis="a fixed seed is used where none is given: every rollout of a group would be the same",
    )
    return "two requests without a seed gave two answers"


async def _within_a_request(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    found = await _sample(sampler, samples=4, seed=11)
    _require(
        len(found) == 4 and len({one.tokens for one in found}) > 1,
        expected="four samples of one request that are not all the same",
        found=f"{len(found)} samples: {_tokens(found)}",
        diagnosis="all samples of a request share one random stream, or too few come back",
    )
    return f"4 samples, {len({one.tokens for one in found})} different ones"


async def _independent_of_count(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    many, few = [await _sample(sampler, samples=count, seed=11) for count in (5, 2)]
    _require(
        [one.tokens for one in many[:2]] == [one.tokens for one in few],
        expected="the first two of five samples are the two samples",
        found=f"{_tokens(many[:2])} of five, {_tokens(few)} of two",
        diagnosis="sample i depends on how many samples are asked for: one stream is drawn for all rows together",
    )
    return "the first 2 of 5 samples are those of a request for 2"


async def _length(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    found = [(await _sample(sampler, max_tokens=count, seed=11))[0] for count in (1, 5, 16)]
    told = [(len(one.tokens), one.stop_reason) for one in found]
    _require(
        told == [(1, "length"), (5, "length"), (16, "length")],
        expected="max_tokens tokens and stop_reason 'length' where stop=[]",
        found=f"max_tokens 1, 5, 16: {told}",
        diagnosis="max_tokens is off by one, or stop=[] still ends at the model's end token",
    )
    _require(
        found[2].tokens[:5] == found[1].tokens,
        expected="a longer answer of one seed begins with the shorter one",
        found=f"{found[1].tokens}, then {found[2].tokens[:5]}",
        diagnosis="a sample depends on max_tokens",
    )
    return "1, 5 and 16 tokens, each ended by length"


async def _free_and_place(sampler: SamplingClient) -> tuple[SampledSequence, SamplingParams, int]:
    """A sequence, how it was sampled, and a place in it before which the model does not end by itself."""
    for seed in range(11, 27):
        params = SamplingParams(max_tokens=12, seed=seed, stop=[])
        (free,) = (await sampler.sample(PROMPT, params)).sequences
        (ended,) = (await sampler.sample(PROMPT, replace(params, stop=None))).sequences
        places = len(ended.tokens) - (ended.stop_reason == "stop")
        if places >= 3:
            return free, params, min(places - 1, 4)
    raise NotRun("the model ends nearly every text at once, so that no other stop can be seen")


async def _stop(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    free, params, place = await _free_and_place(sampler)
    token = free.tokens[place]
    (ended,) = (await sampler.sample(PROMPT, replace(params, stop=[token]))).sequences
    wanted = free.tokens[: free.tokens.index(token) + 1]
    _require(
        ended.tokens == wanted and ended.stop_reason == "stop",
        expected=f"{list(wanted)} and stop_reason 'stop' for stop=[{token}]",
        found=f"{list(ended.tokens)} and {ended.stop_reason!r}",
        diagnosis="stop tokens are ignored, left out of the sequence, or change what is sampled before them",
    )
    logprobs = ended.require_logprobs()
    _require(
        len(logprobs) == len(wanted),
        expected=f"{len(wanted)} log-probabilities",
        found=f"{len(logprobs)}",
        diagnosis="the log-probability of the stop token is missing",
    )
    return f"stopped at token {token}, which is the last of {len(wanted)}"


async def _greedy(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    once = await _sample(sampler, temperature=0.0, seed=11)
    again = await _sample(sampler, temperature=0.0, seed=12)
    best = await _sample(sampler, top_k=1, seed=13)
    told = {_tokens(one) for one in (once, again, best)}
    _require(
        len(told) == 1,
        expected="temperature 0 with any seed, and top_k 1, give the same tokens",
        found=f"{_tokens(once)} and {_tokens(again)} at temperature 0, {_tokens(best)} with top_k 1",
        diagnosis="temperature 0 still draws, or top_k is ignored",
    )
    return "temperature 0 (two seeds) and top_k 1 agree"


async def _argmax(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    (greedy,) = await _sample(sampler, max_tokens=5, temperature=0.0)
    whole = ModelInput.from_ints([*PROMPT.to_ints(), *greedy.tokens])
    params = SamplingParams(max_tokens=1, seed=1, stop=[])
    answer = await sampler.sample(whole, params, topk_prompt_logprobs=1)
    likeliest = (answer.topk_prompt_logprobs or ())[PROMPT.length :]
    found = [row[0][0] if row else None for row in likeliest]
    _require(
        found == list(greedy.tokens),
        expected=f"the likeliest tokens {list(greedy.tokens)}, as greedy sampling took them",
        found=f"{found}",
        diagnosis="greedy sampling does not take the likeliest token, or top-k positions are shifted",
    )
    return "each greedy token is the likeliest one of its position"


CHECKS = (
    Check(
        id="sampling.seed",
        title="one seed gives one answer",
        tolerance=_EXACT,
        run=_same_seed,
        needs=_NEEDS,
    ),
    Check(
        id="sampling.other_seed",
        title="other seeds give other answers",
        tolerance=_EXACT,
        run=_other_seed,
        builds_on=("sampling.seed",),
        needs=_NEEDS,
    ),
    Check(
        id="sampling.no_seed",
        title="requests without a seed differ",
        tolerance=_EXACT,
        run=_without_seed,
        needs=_NEEDS,
    ),
    Check(
        id="sampling.group",
        title="samples of one request differ",
        tolerance=_EXACT,
        run=_within_a_request,
        needs=_NEEDS,
    ),
    Check(
        id="sampling.count",
        title="a sample does not depend on how many there are",
        tolerance=_EXACT,
        run=_independent_of_count,
        builds_on=("sampling.seed",),
        needs=_NEEDS,
    ),
    Check(
        id="sampling.length",
        title="max_tokens and stop=[] are obeyed",
        tolerance="exact",
        run=_length,
        builds_on=("sampling.seed",),
        needs=_NEEDS,
    ),
    Check(
        id="sampling.stop",
        title="a stop token ends a sequence and is its last",
        tolerance="exact",
        run=_stop,
        builds_on=("sampling.seed",),
        needs=_NEEDS,
    ),
    Check(
        id="sampling.greedy",
        title="temperature 0 and top_k 1 are greedy",
        tolerance=_EXACT,
        run=_greedy,
        needs=_NEEDS,
    ),
    Check(
        id="sampling.argmax",
        title="greedy tokens are the likeliest ones",
        tolerance=_EXACT,
        run=_argmax,
        builds_on=("sampling.greedy",),
        needs=("sampling", "topk_prompt_logprobs"),
    ),
)
