"""Share the data of an iteration among its optimiser steps."""

from __future__ import annotations

from pydantic import Field

from crucible_ir import Contract
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import ROLLOUT_DATA, UPDATES
from crucible_train.rl import split_list

__all__ = ["SplitUpdates", "SplitUpdatesOptions"]


class SplitUpdatesOptions(Contract):
    """How many optimiser steps."""

    num_substeps: int = Field(default=1, ge=1)


class SplitUpdates(Stage):
    """Share the datums of this iteration among its optimiser steps, as evenly as can be."""

    name = "split_updates"
    reads = (ROLLOUT_DATA,)
    writes = (UPDATES,)
    options_model = SplitUpdatesOptions

    async def run(self, ctx: StageContext) -> None:
        """Fewer datums than steps make fewer steps; none make none."""
        data = ctx.get(ROLLOUT_DATA)
        parts = min(self.options.num_substeps, len(data))
        ctx.set(UPDATES, split_list(data, parts) if data else [])
