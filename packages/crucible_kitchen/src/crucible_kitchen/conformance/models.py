"""Checks of several models at once, and of work that is submitted before earlier work is awaited."""

from __future__ import annotations

from crucible_kitchen.conformance.bench import Bench
from crucible_kitchen.conformance.check import Check, Mismatch
from crucible_kitchen.conformance.compare import require_same
from crucible_kitchen.conformance.material import BATCH, OTHER_BATCH

__all__ = ["CHECKS"]

_WITHIN = "tolerance in nats"


async def _learns(bench: Bench) -> str:
    rate = await bench.rate()
    moved = await bench.moved(await bench.stepped())
    return f"a first step with learning rate {rate:.2g} moves log-probabilities by {moved:.2g} nats"


async def _pair(bench: Bench, *, what: str, expected: str, diagnosis: str) -> str:
    params = await bench.params()
    one, other = [await bench.after((BATCH, params), (OTHER_BATCH, params)) for _ in range(2)]
    return require_same(one, other, within=bench.tolerance, what=what, expected=expected, diagnosis=diagnosis)


async def _seed(bench: Bench) -> str:
    try:
        return await _pair(
            bench,
            what="log-probabilities of two clients of one seed after the same two steps",
            expected="adapters of one seed are the same, and learn the same",
            diagnosis="the adapter's seed is ignored; the other checks now begin from one saved state",
        )
    except Mismatch:
        await bench.begin_from_a_state()
        raise


async def _repeats(bench: Bench) -> str:
    return await _pair(
        bench,
        what="log-probabilities of two clients that began alike after the same two steps",
        expected="clients that begin alike and are told alike learn the same",
        diagnosis="training is not repeatable, or something of an earlier client is left in a new one",
    )


async def _apart(bench: Bench) -> str:
    params = await bench.params()
    alone = [await bench.after((data, params), (data, params)) for data in (BATCH, OTHER_BATCH)]
    one, other = await bench.fresh(), await bench.fresh()
    for _ in range(2):
        await one.forward_backward(BATCH)
        await other.forward_backward(OTHER_BATCH)
        await other.optim_step(params)
        await one.optim_step(params)
    told = ""
    for name, client, wanted in (("first", one, alone[0]), ("second", other, alone[1])):
        told = require_same(
            (await client.forward(BATCH)).logprobs,
            wanted,
            within=bench.tolerance,
            what=f"log-probabilities of the {name} of two models trained in turn, and of it trained alone,",
            expected="models that are trained at once do not move each other",
            diagnosis="gradients, moments or weights of one model leak into another",
        )
    return told


async def _pipelined(bench: Bench) -> str:
    params = await bench.params()
    steps = ((BATCH, params), (OTHER_BATCH, params), (BATCH, params))
    wanted = await bench.after(*steps)
    client = await bench.fresh()
    handles = []
    for data, settings in steps:
        handles.append((client.forward_backward(data), client.optim_step(settings)))
    last = client.forward(BATCH)
    for passed, stepped in handles:
        await passed
        await stepped
    return require_same(
        (await last).logprobs,
        wanted,
        within=bench.tolerance,
        what="log-probabilities after three steps submitted at once, and awaited one by one,",
        expected="work is done in the order of the calls",
        diagnosis="requests overtake each other: a step takes the gradients of another batch",
    )


CHECKS = (
    Check(
        id="models.learns",
        title="a step moves the trainer's log-probabilities",
        tolerance="0.2 to 2 nats for some learning rate",
        run=_learns,
    ),
    Check(
        id="models.seed",
        title="adapters of one seed are the same",
        tolerance=_WITHIN,
        run=_seed,
        builds_on=("models.learns",),
    ),
    Check(
        id="models.repeats",
        title="two clients that begin alike learn the same",
        tolerance=_WITHIN,
        run=_repeats,
        builds_on=("models.learns",),
    ),
    Check(
        id="models.apart",
        title="two models trained in turn do not move each other",
        tolerance=_WITHIN,
        run=_apart,
        builds_on=("models.repeats",),
    ),
    Check(
        id="models.order",
        title="steps submitted at once are done in order",
        tolerance=_WITHIN,
        run=_pipelined,
        builds_on=("models.repeats",),
    ),
)
