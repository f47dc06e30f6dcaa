"""Checks of gradients: they add up, forward leaves them alone, a step uses them up and goes downhill."""

from __future__ import annotations

from crucible_kitchen.conformance.bench import Bench
from crucible_kitchen.conformance.check import Check
from crucible_kitchen.conformance.compare import require_near, require_same
from crucible_kitchen.conformance.material import BATCH, OTHER_BATCH, scaled
from crucible_train.types import AdamParams

__all__ = ["CHECKS", "RELATIVE"]

RELATIVE = 0.01
"""Relative difference of two gradient norms that should be equal."""
_RELATIVE = "1 % of the norm"


async def _step(bench: Bench) -> str:
    rate = await bench.rate()
    return f"a first step with learning rate {rate:.2g} moves log-probabilities by half a nat or so"


async def _forward(bench: Bench) -> str:
    plain, mixed = await bench.fresh(), await bench.fresh()
    alone = await bench.norm(plain, BATCH)
    await mixed.forward(OTHER_BATCH)
    await mixed.forward_backward(BATCH)
    await mixed.forward(BATCH)
    found = await bench.norm(mixed, scaled(BATCH, 0.0))
    return require_near(
        found,
        alone,
        within=RELATIVE * alone,
        what="the norm of the gradient after forward calls before and behind it",
        expected="forward leaves gradients as they are",
        diagnosis="forward adds gradients: a server that ignores forward_only trains on held-out data",
    )


async def _accumulate(bench: Bench) -> str:
    one, two = await bench.fresh(), await bench.fresh()
    single = await bench.norm(one, [*BATCH, *BATCH])
    found = await bench.norm(two, BATCH, BATCH)
    return require_near(
        found,
        single,
        within=RELATIVE * single,
        what="the norm after two calls with a batch",
        expected="two forward_backward calls before a step add their gradients",
        diagnosis="the second forward_backward replaces the gradients of the first, or calls are averaged",
    )


async def _cleared(bench: Bench) -> str:
    once, again = await bench.fresh(), await bench.fresh()
    wanted = await bench.norm(once, BATCH)
    await bench.norm(again, OTHER_BATCH)
    found = await bench.norm(again, BATCH)
    return require_near(
        found,
        wanted,
        within=RELATIVE * wanted,
        what="the norm of a batch's gradient after a step on another batch",
        expected="optim_step uses the gradients up",
        diagnosis="gradients stay after optim_step, and the next step takes them again",
    )


async def _still(bench: Bench) -> str:
    client = await bench.fresh()
    await bench.train(client, (BATCH, AdamParams(learning_rate=0.0, weight_decay=0.5)))
    return require_same(
        (await client.forward(BATCH)).logprobs,
        await bench.base(),
        within=bench.tolerance,
        what="log-probabilities before and after a step of learning rate 0",
        expected="a step of learning rate 0 changes nothing",
        diagnosis="the learning rate of the call is ignored, or weight decay is not multiplied by it",
    )


CHECKS = (
    Check(
        id="gradients.step",
        title="a step moves the trainer's log-probabilities",
        tolerance="0.2 to 2 nats for some learning rate",
        run=_step,
    ),
    Check(
        id="gradients.forward",
        title="forward accumulates nothing",
        tolerance=_RELATIVE,
        run=_forward,
    ),
    Check(
        id="gradients.accumulate",
        title="gradients of two calls add up",
        tolerance=_RELATIVE,
        run=_accumulate,
    ),
    Check(
        id="gradients.cleared",
        title="a step uses the gradients up",
        tolerance=_RELATIVE,
        run=_cleared,
    ),
    Check(
        id="gradients.rate_zero",
        title="a step of learning rate 0 changes nothing",
        tolerance="tolerance in nats",
        run=_still,
    ),
)
