"""Checks of log-probabilities: of prompts, of samples, of the trainer and of the sampler."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crucible_kitchen.conformance.bench import Bench
from crucible_kitchen.conformance.check import Check, Mismatch
from crucible_kitchen.conformance.compare import require_same
from crucible_kitchen.conformance.material import BATCH, PROMPT, datum
from crucible_train.ports import SamplingClient
from crucible_train.types import Datum, ModelInput, SamplingParams

__all__ = ["CHECKS", "scores_of"]

_NEEDS = ("sampling", "prompt_logprobs")
_WITHIN = "tolerance in nats"


async def scores_of(sampler: SamplingClient, data: Sequence[Datum] = BATCH) -> list[NDArray[np.float32]]:
    """What a sampler says of the targets of ``data``, in the shape of ``forward``'s log-probabilities."""
    found = []
    for one in data:
        whole = ModelInput.from_ints([*one.model_input.to_ints(), int(one.target_tokens[-1])])
        scored = await sampler.compute_logprobs(whole)
        found.append(np.array([np.nan if value is None else value for value in scored[1:]], dtype=np.float32))
    return found


async def _prompt(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    scored = await sampler.compute_logprobs(PROMPT)
    if len(scored) != PROMPT.length or scored[0] is not None:
        raise Mismatch(
            expected=f"{PROMPT.length} values for {PROMPT.length} tokens, None first",
            found=f"{len(scored)} values, {scored[0]!r} first",
            diagnosis="compute_logprobs leaves out the first position: everything behind it is shifted by one",
        )
    wrong = [value for value in scored[1:] if value is None or not -1e4 < value <= 1e-6]
    if wrong:
        raise Mismatch(
            expected="finite log-probabilities ≤ 0",
            found=f"{wrong}",
            diagnosis="these are no log-probabilities (logits, probabilities, or values with the sign turned?)",
        )
    return f"{len(scored)} values, None first"


async def _with_a_sample(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    scored = await sampler.compute_logprobs(PROMPT)
    params = SamplingParams(max_tokens=2, seed=11, stop=[])
    answer = await sampler.sample(PROMPT, params, include_prompt_logprobs=True)
    told = answer.prompt_logprobs or ()
    return require_same(
        [np.array([np.nan if v is None else v for v in told[1:]], dtype=np.float32)],
        [np.array(scored[1:], dtype=np.float32)],
        within=bench.tolerance,
        what="prompt log-probabilities of a sample and compute_logprobs",
        expected="the same numbers",
        diagnosis="include_prompt_logprobs is ignored or scores another text",
    )


async def _fresh(bench: Bench) -> str:
    return require_same(
        await scores_of(await bench.base_sampler()),
        await bench.base(),
        within=bench.tolerance,
        what="log-probabilities of the base model's sampler and of a fresh adapter's forward",
        expected="a fresh adapter is the base model; position i scores target i given inputs 0 to i",
        diagnosis="a fresh adapter changes the model, forward's positions are shifted, or trainer and sampler "
        "compute differently (in bfloat16 give a greater --tolerance)",
    )


async def _sampled(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    client = await bench.fresh()
    told = []
    for temperature in (1.0, 0.5, 2.0):
        params = SamplingParams(max_tokens=6, seed=11, temperature=temperature, top_p=0.9, stop=[])
        (sequence,) = (await sampler.sample(PROMPT, params)).sequences
        logprobs = np.array(sequence.require_logprobs(), dtype=np.float32)
        whole = datum([*PROMPT.to_ints(), *sequence.tokens])
        scored = (await client.forward([whole])).logprobs[0][PROMPT.length - 1 :]
        told.append(
            require_same(
                [logprobs],
                [scored],
                within=bench.tolerance,
                what=f"at temperature {temperature:g} and top_p 0.9, sampled and forward's log-probabilities",
                expected="samples carry the model's own log-probabilities, at temperature 1 over the whole vocabulary",
                diagnosis="samples come with log-probabilities of the scaled or cut distribution: every ratio of a "
                "policy loss would be wrong",
            )
        )
    return told[-1]


CHECKS = (
    Check(
        id="scores.prompt",
        title="compute_logprobs has one value per token, None first",
        tolerance="exact",
        run=_prompt,
        needs=_NEEDS,
    ),
    Check(
        id="scores.with_sample",
        title="include_prompt_logprobs gives the same as compute_logprobs",
        tolerance=_WITHIN,
        run=_with_a_sample,
        builds_on=("scores.prompt",),
        needs=_NEEDS,
    ),
    Check(
        id="scores.fresh_adapter",
        title="a fresh adapter scores as the base model does",
        tolerance=_WITHIN,
        run=_fresh,
        builds_on=("scores.prompt",),
        needs=_NEEDS,
    ),
    Check(
        id="scores.sampled",
        title="sampled log-probabilities are forward's, at any temperature",
        tolerance=_WITHIN,
        run=_sampled,
        needs=("sampling",),
    ),
)
