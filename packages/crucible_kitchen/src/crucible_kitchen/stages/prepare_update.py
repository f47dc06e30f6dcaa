"""Make the batch of one pass from rollout data."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_ir import Contract
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.keys import BATCH, ROLLOUT_DATA, TRAINED
from crucible_train.rl import inputs_for_loss
from crucible_train.types import Datum

__all__ = ["PrepareUpdate", "PrepareUpdateOptions"]

_ITEM: Key[Sequence[Datum]] = Key("updates_item")


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

    async def run(self, ctx: StageContext) -> None:
        """The datums with their masks are kept for this iteration's metrics."""
        data = ctx.get(ROLLOUT_DATA) if self.options.whole else ctx.get(_ITEM)
        ctx.set(BATCH, [inputs_for_loss(datum, ctx.training.loss) for datum in data])
        ctx.set(TRAINED, [*ctx.get(TRAINED), *data])
