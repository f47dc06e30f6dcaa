"""Open what samples with the weights in training."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from crucible_ir import Contract, Problem
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.capability import lacking
from crucible_kitchen.stages.cost import announce_cost
from crucible_kitchen.stages.keys import ENVIRONMENTS, ROLLOUTS, SAMPLER, SESSION, TOTAL_STEPS
from crucible_kitchen.stages.rollouts import RolloutPool, RolloutSettings
from crucible_kitchen.stages.sampler import FreshSampler

__all__ = ["OpenRollouts", "OpenRolloutsOptions"]


class OpenRolloutsOptions(Contract):
    """How the policy acts."""

    max_tokens: int = Field(default=256, ge=1)
    """Longest answer of one turn."""
    temperature: float = Field(default=1.0, ge=0)
    max_turns: int | None = Field(default=None, ge=1)
    """Turns of an episode at most; None lets the environment end it."""
    max_steps_off_policy: int = Field(default=0, ge=0)
    """Iterations that the sampling weights may lag behind those in training; 0 samples anew for each."""
    on_error: str = Field(default="raise", pattern="^(raise|drop)$")
    """A group whose environment fails: stop, or leave it out, count it and say so."""


class OpenRollouts(Stage):
    """Open the sampler over the weights in training, and the rollouts that use it."""

    name = "open_rollouts"
    reads = (SESSION, ENVIRONMENTS, TOTAL_STEPS)
    writes = (SAMPLER, ROLLOUTS)
    ports = ("training_backend",)
    options_model = OpenRolloutsOptions
    setup = True

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """The backend can sample."""
        return lacking(plan.ports.get("training_backend"), {"sampling": True}, asked_of="rollouts")

    async def run(self, ctx: StageContext) -> None:
        """Whatever is still under way at the end of the run is cancelled, then the samplers are closed."""
        options = self.options
        sampler = FreshSampler(ctx.get(SESSION))
        ctx.defer(sampler.aclose)
        pool = RolloutPool(
            ctx.get(ENVIRONMENTS).train,
            sampler,
            RolloutSettings(
                max_tokens=options.max_tokens,
                temperature=options.temperature,
                max_turns=options.max_turns,
                ahead=options.max_steps_off_policy,
                drop_failed=options.on_error == "drop",
            ),
            rng=ctx.rng,
            total=ctx.get(TOTAL_STEPS),
        )
        ctx.defer(pool.aclose)
        ctx.set(SAMPLER, sampler)
        ctx.set(ROLLOUTS, pool)
        announce_cost(ctx, trained=None, without="all, since rollouts are as long as they become")
