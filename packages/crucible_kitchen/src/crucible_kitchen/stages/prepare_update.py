"""Make the batch of one pass from rollout data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crucible_ir import Contract, Problem
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.keys import BATCH, ROLLOUT_DATA, TRAINED
from crucible_train.losses import LOSSES
from crucible_train.rl import inputs_for_loss
from crucible_train.types import Datum

__all__ = ["PrepareUpdate", "PrepareUpdateOptions"]

_ITEM: Key[Sequence[Datum]] = Key("updates_item")
_ROLLED = frozenset({"target_tokens", "logprobs", "advantages", "mask", "sequence_ratio_mask"})
"""What rollouts hold for a loss."""


class PrepareUpdateOptions(Contract):
    """Where the data come from."""

    whole: bool = False
    """Take all rollout data at hand, not one part of them."""


class PrepareUpdate(Stage):
    """Keep of each datum what the loss reads."""

    name = "prepare_update"
    reads = (ROLLOUT_DATA, TRAINED)
    optional_reads = (_ITEM,)
    writes = (BATCH, TRAINED)
    options_model = PrepareUpdateOptions

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """The loss is one that reads advantages; whether there is such a loss, the session looks."""
        training = plan.experiment.training
        spec = LOSSES.get(training.loss) if training else None
        if training is None or spec is None:
            return []
        lacking = sorted(set(spec.inputs) - _ROLLED)
        if not lacking:
            return []
        return [
            Problem(
                path="training.loss",
                message=f"{training.loss!r} needs {', '.join(lacking)}, which rollouts do not hold",
                remedy="use importance_sampling, ppo, cispo, dro or gspo here",
            )
        ]

    async def run(self, ctx: StageContext) -> None:
        """The datums with their masks are kept for this iteration's metrics."""
        data = ctx.get(ROLLOUT_DATA) if self.options.whole else ctx.get(_ITEM)
        ctx.set(BATCH, [inputs_for_loss(datum, ctx.training.loss) for datum in data])
        ctx.set(TRAINED, [*ctx.get(TRAINED), *data])
