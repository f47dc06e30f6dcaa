"""Hold the policy to a reference."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from crucible_ir import Contract
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import PENDING_METRICS, REFERENCE_SAMPLER, ROLLOUT_DATA, TRAINED
from crucible_kitchen.stages.scoring import score_targets
from crucible_train.rl import incorporate_kl_penalty
from crucible_train.types import Datum

__all__ = ["PenalizeKl", "PenalizeKlOptions"]


class PenalizeKlOptions(Contract):
    """How strongly, and whether the future counts."""

    coef: float = Field(gt=0)
    discount: float = Field(default=0.0, ge=0, le=1)
    """Share of the next token's penalty that a token bears too."""


class PenalizeKl(Stage):
    """Lower the advantage of tokens that the policy likes more than the reference does."""

    name = "penalize_kl"
    reads = (ROLLOUT_DATA, REFERENCE_SAMPLER, PENDING_METRICS, TRAINED)
    writes = (ROLLOUT_DATA, PENDING_METRICS)
    options_model = PenalizeKlOptions

    async def run(self, ctx: StageContext) -> None:
        """The mean over the data at hand is taken out, as upstream does; the row has that of the whole iteration."""
        data, options = ctx.get(ROLLOUT_DATA), self.options
        here, before = _sampled_tokens(data), _sampled_tokens(ctx.get(TRAINED))
        if not here:
            return
        base = await score_targets(ctx.get(REFERENCE_SAMPLER), data)
        changed, metrics = incorporate_kl_penalty(data, base, coef=options.coef, discount=options.discount)
        ctx.set(ROLLOUT_DATA, changed)
        pending = ctx.get(PENDING_METRICS)
        means = {
            name: (pending.get(name, 0.0) * before + mean * here) / (before + here)
            for name, mean in metrics.items()
        }
        ctx.set(PENDING_METRICS, pending | means)


def _sampled_tokens(data: Sequence[Datum]) -> float:
    return sum(float(datum.loss_fn_inputs["mask"].array.sum()) for datum in data)
