"""Checks that a saved state is the whole state."""

from __future__ import annotations

from dataclasses import replace

from crucible_ir import CheckpointRef
from crucible_kitchen.conformance.bench import Bench
from crucible_kitchen.conformance.check import Check
from crucible_kitchen.conformance.compare import require_same
from crucible_kitchen.conformance.material import BATCH, OTHER_BATCH
from crucible_train.ports import TrainingClient

__all__ = ["CHECKS"]

_WITHIN = "tolerance in nats; exact where the backend promises exact_resume"


def _within(bench: Bench) -> float:
    return 0.0 if bench.capabilities.exact_resume else bench.tolerance


async def _half_way(bench: Bench) -> tuple[TrainingClient, CheckpointRef]:
    """A client after two steps, and its state then."""
    params = await bench.params()
    client = await bench.fresh()
    await bench.train(client, (BATCH, params), (BATCH, params))
    return client, await client.save_state(bench.name("state"))


async def _resumed(bench: Bench) -> str:
    params = await bench.params(times=0.5)
    client, ref = await _half_way(bench)
    rest = ((OTHER_BATCH, params), (BATCH, params))
    await bench.train(client, *rest)
    wanted = (await client.forward(BATCH)).logprobs
    other = await bench.fresh()
    await other.load_state(ref)
    await bench.train(other, *rest)
    return require_same(
        (await other.forward(BATCH)).logprobs,
        wanted,
        within=_within(bench),
        what="log-probabilities of a run that went on from a saved state, and of one that never stopped,",
        expected="a saved state goes on as if nothing had happened",
        diagnosis="the state lacks the optimiser's moments or step count, or holds weights of lower precision",
    )


async def _weights(bench: Bench) -> str:
    client, ref = await _half_way(bench)
    wanted = (await client.forward(BATCH)).logprobs
    other = await bench.fresh()
    await other.load_state(ref)
    return require_same(
        (await other.forward(BATCH)).logprobs,
        wanted,
        within=_within(bench),
        what="log-probabilities before saving and after loading",
        expected="load_state brings back the saved weights",
        diagnosis="load_state loads nothing, other weights, or weights of lower precision",
    )


async def _without_optimizer(bench: Bench) -> str:
    """A first step does not depend on the betas (``optimizer.first_step``); one with moments does."""
    params = await bench.params(times=0.5)
    _, ref = await _half_way(bench)
    found = []
    for beta1, beta2 in ((0.9, 0.95), (0.5, 0.5)):
        client = await bench.fresh()
        await client.load_state(ref, with_optimizer=False)
        await bench.train(client, (OTHER_BATCH, replace(params, beta1=beta1, beta2=beta2)))
        found.append((await client.forward(BATCH)).logprobs)
    return require_same(
        *found,
        within=bench.tolerance,
        what="log-probabilities after a first step behind a load without optimiser, with betas 0.9, 0.95 and 0.5, 0.5,",
        expected="with_optimizer=False starts the optimiser anew",
        diagnosis="moments or the step count of the saved state are kept although they were not asked for",
    )


async def _back(bench: Bench) -> str:
    client, ref = await _half_way(bench)
    wanted = (await client.forward(BATCH)).logprobs
    await bench.train(client, (OTHER_BATCH, await bench.params()))
    await client.load_state(ref)
    return require_same(
        (await client.forward(BATCH)).logprobs,
        wanted,
        within=_within(bench),
        what="log-probabilities when the state was saved, and after going back to it,",
        expected="load_state puts the saved state in place of the present one",
        diagnosis="load_state keeps the present weights, or the saved state changed after it was saved",
    )


CHECKS = (
    Check(
        id="state.weights",
        title="a loaded state scores as the saved one did",
        tolerance=_WITHIN,
        run=_weights,
        builds_on=("models.learns",),
    ),
    Check(
        id="state.back",
        title="a client goes back to a state it saved",
        tolerance=_WITHIN,
        run=_back,
        builds_on=("state.weights",),
    ),
    Check(
        id="state.resumed",
        title="training goes on from a loaded state as if nothing had happened",
        tolerance=_WITHIN,
        run=_resumed,
        builds_on=("state.weights", "models.repeats", "gradients.cleared"),
    ),
    Check(
        id="state.without_optimizer",
        title="a state loaded without optimiser starts it anew",
        tolerance="tolerance in nats",
        run=_without_optimizer,
        builds_on=("state.weights", "optimizer.first_step"),
    ),
)
