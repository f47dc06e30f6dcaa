"""Hold the policy to a reference."""

from __future__ import annotations

from pydantic import Field

from crucible_ir import Contract
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import PENDING_METRICS, REFERENCE_SAMPLER, ROLLOUT_DATA
from crucible_kitchen.stages.scoring import score_targets
from crucible_train.rl import incorporate_kl_penalty

__all__ = ["PenalizeKl", "PenalizeKlOptions"]


class PenalizeKlOptions(Contract):
    """How strongly, and whether the future counts."""

    coef: float = Field(gt=0)
    discount: float = Field(default=0.0, ge=0, le=1)
    """Share of the next token's penalty that a token bears too."""


class PenalizeKl(Stage):
    """Lower the advantage of tokens that the policy likes more than the reference does."""

    name = "penalize_kl"
    reads = (ROLLOUT_DATA, REFERENCE_SAMPLER, PENDING_METRICS)
    writes = (ROLLOUT_DATA, PENDING_METRICS)
    options_model = PenalizeKlOptions

    async def run(self, ctx: StageContext) -> None:
        """The mean over the data at hand is taken out, as upstream does."""
        data, options = ctx.get(ROLLOUT_DATA), self.options
        if not data:
            return
        base = await score_targets(ctx.get(REFERENCE_SAMPLER), data)
        changed, metrics = incorporate_kl_penalty(data, base, coef=options.coef, discount=options.discount)
        ctx.set(ROLLOUT_DATA, changed)
        ctx.set(PENDING_METRICS, ctx.get(PENDING_METRICS) | dict(metrics))
