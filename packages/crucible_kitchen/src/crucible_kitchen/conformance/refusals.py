"""Checks that bad input is refused with an error of its kind, and does no harm."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from crucible_ir import CrucibleError, ServiceError
from crucible_kitchen.conformance.bench import STILL, Bench
from crucible_kitchen.conformance.check import Check, Mismatch
from crucible_kitchen.conformance.compare import require_near, require_same
from crucible_kitchen.conformance.gradients import RELATIVE
from crucible_kitchen.conformance.material import BATCH, datum
from crucible_train.types import ModelInput, SamplingParams

__all__ = ["CHECKS"]

_BEYOND = 100_000_000
"""A token id that no vocabulary has."""
_TYPED = "an error that says what to correct"


async def _refused(call: Callable[[], Awaitable[Any]], what: str) -> str:
    """The error of a call that has to be refused.

    Raises:
        Mismatch: it was accepted, or the error says that the service failed.
    """
    try:
        await call()
    except ServiceError as error:
        raise Mismatch(
            expected=f"{what} is refused as the caller's fault",
            found=f"a failure of the service: {error}",
            diagnosis="bad input breaks the server, or is told as an error that clients repeat for minutes",
        ) from error
    except CrucibleError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        raise Mismatch(
            expected=f"{what} is refused with {_TYPED}",
            found=f"{type(error).__name__}: {error}",
            diagnosis="an error of the implementation comes through",
        ) from error
    raise Mismatch(
        expected=f"{what} is refused with {_TYPED}",
        found="it was accepted",
        diagnosis="bad input is clamped, dropped or trained on in silence",
    )


async def _require_unharmed(bench: Bench, client: Any, norm: float | None) -> str:
    """The client scores and learns as before the refused call."""
    told = require_same(
        (await client.forward(BATCH)).logprobs,
        await bench.base(),
        within=bench.tolerance,
        what="log-probabilities before and after a refused call",
        expected="a refused call changes nothing",
        diagnosis="a refused call moved the weights",
    )
    with contextlib.suppress(
        CrucibleError
    ):  # a step that the failed pass was for may be refused, and clears gradients
        await client.optim_step(STILL)
    if norm is not None:
        require_near(
            await bench.norm(client, BATCH),
            norm,
            within=RELATIVE * norm,
            what="the gradient's norm after a refused call",
            expected="a refused call leaves no gradient",
            diagnosis="part of a refused batch stays in the gradient, or the model is unusable after it",
        )
    return told


async def _tokens(bench: Bench) -> str:
    norm = await bench.batch_norm()
    bad = {"an input token": datum([7, _BEYOND, 9, 11]), "a target token": datum([7, 8, 9, _BEYOND])}
    told = ""
    for what, row in bad.items():
        client = await bench.fresh()
        for name in ("forward_backward", "forward"):
            call = getattr(client, name)

            async def attempt(call: Any = call, row: Any = row) -> None:
                await call([*BATCH, row])

            told = await _refused(attempt, f"{what} outside the vocabulary in {name}")
        await _require_unharmed(bench, client, norm)
    return told


async def _loss(bench: Bench) -> str:
    client = await bench.fresh()

    async def attempt() -> None:
        await client.forward_backward(BATCH, "cross_entropi")

    told = await _refused(attempt, "a loss that does not exist")
    await _require_unharmed(bench, client, None)
    return told


async def _nothing(bench: Bench) -> str:
    client = await bench.fresh()

    async def attempt() -> None:
        await client.forward_backward([])

    told = await _refused(attempt, "a batch without data")
    await _require_unharmed(bench, client, None)
    return told


async def _prompt(bench: Bench) -> str:
    sampler = await bench.base_sampler()
    told = ""
    for what, prompt in {
        "an empty prompt": ModelInput.empty(),
        "a prompt with a token outside the vocabulary": ModelInput.from_ints([7, _BEYOND]),
    }.items():

        async def attempt(prompt: ModelInput = prompt) -> None:
            await sampler.sample(prompt, SamplingParams(max_tokens=1))

        told = await _refused(attempt, what)
    await sampler.sample(ModelInput.from_ints([7, 8]), SamplingParams(max_tokens=1, stop=[]))
    return told


CHECKS = (
    Check(
        id="errors.tokens",
        title="a token outside the vocabulary is refused and does no harm",
        tolerance=_TYPED,
        run=_tokens,
        builds_on=("gradients.cleared",),
    ),
    Check(
        id="errors.loss",
        title="an unknown loss is refused and does no harm",
        tolerance=_TYPED,
        run=_loss,
    ),
    Check(
        id="errors.empty",
        title="a batch without data is refused and does no harm",
        tolerance=_TYPED,
        run=_nothing,
    ),
    Check(
        id="errors.prompt",
        title="a prompt that cannot be read is refused and does no harm",
        tolerance=_TYPED,
        run=_prompt,
        needs=("sampling",),
    ),
)
