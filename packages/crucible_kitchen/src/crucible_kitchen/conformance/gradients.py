"""Checks of gradients: they add up, forward leaves them alone, a step uses them up and goes downhill."""

from __future__ import annotations

from crucible_kitchen.conformance.bench import Bench
from crucible_kitchen.conformance.check import Check
from crucible_kitchen.conformance.compare import require_near, require_same
from crucible_kitchen.conformance.material import BATCH, OTHER_BATCH
from crucible_train.types import AdamParams

__all__ = ["CHECKS", "RELATIVE"]

RELATIVE = 0.01
"""Relative difference of two gradient norms that should be equal."""
_RELATIVE = "1 % of the norm"


async def _forward(bench: Bench) -> str:
    alone, mixed = await bench.batch_norm(), await bench.fresh()
    await mixed.forward(OTHER_BATCH)
    await mixed.forward_backward(BATCH)
    await mixed.forward(BATCH)
    found = await bench.norm(mixed)
    return require_near(
        found,
        alone,
        within=RELATIVE * alone,
        what="the norm of the gradient after forward calls before and behind it",
        expected="forward leaves gradients as they are",
        diagnosis="forward adds gradients: a server that ignores forward_only trains on held-out data",
    )


async def _accumulate(bench: Bench) -> str:
    single = await bench.batch_norm()
    found = await bench.norm(await bench.fresh(), BATCH, BATCH)
    return require_near(
        found / single,
        2.0,
        within=2 * RELATIVE,
        what="the gradient's norm after two calls with a batch, over that after one,",
        expected="two forward_backward calls before a step add their gradients",
        diagnosis="the second forward_backward replaces the gradients of the first, or calls are averaged",
    )


async def _cleared(bench: Bench) -> str:
    wanted, again = await bench.batch_norm(), await bench.fresh()
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
        id="gradients.forward",
        title="forward accumulates nothing",
        tolerance=_RELATIVE,
        run=_forward,
        builds_on=("models.repeats",),
    ),
    Check(
        id="gradients.accumulate",
        title="gradients of two calls add up",
        tolerance=_RELATIVE,
        run=_accumulate,
        builds_on=("models.repeats",),
    ),
    Check(
        id="gradients.cleared",
        title="a step uses the gradients up",
        tolerance=_RELATIVE,
        run=_cleared,
        builds_on=("models.repeats",),
    ),
    Check(
        id="gradients.rate_zero",
        title="a step of learning rate 0 changes nothing",
        tolerance="tolerance in nats",
        run=_still,
    ),
)
