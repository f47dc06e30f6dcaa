"""Checks that a trained adapter reaches the sampler, live and saved."""

from __future__ import annotations

from crucible_kitchen.conformance.bench import Bench
from crucible_kitchen.conformance.check import Check, Mismatch
from crucible_kitchen.conformance.compare import distance, require_same
from crucible_kitchen.conformance.material import BATCH, OTHER_BATCH
from crucible_kitchen.conformance.scores import scores_of

__all__ = ["CHECKS"]

_NEEDS = ("sampling", "prompt_logprobs")
_BUILDS_ON = ("scores.fresh_adapter", "models.learns")
_WITHIN = "tolerance in nats"


async def _sampler(bench: Bench) -> str:
    client = await bench.fresh()
    await bench.train(client, (BATCH, await bench.params()))
    trained = (await client.forward(BATCH)).logprobs
    sampled = await scores_of(await bench.sampler_of(client))
    base = distance(sampled, await bench.base()) <= bench.tolerance
    return require_same(
        sampled,
        trained,
        within=bench.tolerance,
        what=f"log-probabilities of sampler and trainer, moved by {await bench.moved(trained):.2g} nats,",
        expected="a sampler has the weights of the moment it was asked for",
        diagnosis="the sampler does not apply the adapter: it is the base model"
        if base
        else "the sampler applies the adapter in another way than the trainer (scale, layers, precision)",
    )


async def _newer(bench: Bench) -> str:
    client, params = await bench.fresh(), await bench.params()
    await bench.train(client, (BATCH, params))
    old = await bench.sampler_of(client)
    before = await scores_of(old)
    await bench.train(client, (OTHER_BATCH, params))
    now = (await client.forward(BATCH)).logprobs
    told = require_same(
        await scores_of(await bench.sampler_of(client)),
        now,
        within=bench.tolerance,
        what="log-probabilities of trainer and of a sampler asked for after a second step",
        expected="every new sampler has the newest weights",
        diagnosis="the sampler has stale weights: rollouts would be off policy without anybody knowing",
    )
    require_same(
        await scores_of(old),
        before,
        within=bench.tolerance,
        what="log-probabilities of the first sampler before and after the second step",
        expected="a sampler keeps the weights that it was made with",
        diagnosis="weights change under a sampler that is in use",
    )
    return told


async def _saved(bench: Bench) -> str:
    client, params = await bench.fresh(), await bench.params()
    await bench.train(client, (BATCH, params))
    now = (await client.forward(BATCH)).logprobs
    ref = await client.save_weights_for_sampler(bench.name("weights"))
    await bench.train(client, (OTHER_BATCH, params))
    stored = bench.kept(await bench.backend.create_sampling_client(bench.settings.model, ref))
    found = await scores_of(stored)
    later = (await client.forward(BATCH)).logprobs
    if distance(now, later) <= bench.tolerance:
        raise Mismatch(
            expected="a second step moves the trainer",
            found=f"it moved by {distance(now, later):.2g} nats",
            diagnosis="training stops after save_weights_for_sampler",
        )
    return require_same(
        found,
        now,
        within=bench.tolerance,
        what="log-probabilities of saved sampler weights and of the trainer when they were saved",
        expected="save_weights_for_sampler writes the weights of that moment",
        diagnosis="saved weights are stale, newer, or without the adapter",
    )


CHECKS = (
    Check(
        id="adapter.sampler",
        title="the sampler applies the trained adapter",
        tolerance=_WITHIN,
        run=_sampler,
        builds_on=_BUILDS_ON,
        needs=_NEEDS,
    ),
    Check(
        id="adapter.newest",
        title="a new sampler has the newest weights, an old one keeps its own",
        tolerance=_WITHIN,
        run=_newer,
        builds_on=(*_BUILDS_ON, "adapter.sampler"),
        needs=_NEEDS,
    ),
    Check(
        id="adapter.saved",
        title="saved sampler weights are the trainer's of that moment",
        tolerance=_WITHIN,
        run=_saved,
        builds_on=_BUILDS_ON,
        needs=_NEEDS,
    ),
)
