"""Ask the teachers what they would say at every position of a batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crucible_ir import Contract
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.keys import BATCH, MIXTURE, TEACHERS
from crucible_kitchen.stages.soft_targets import soft_targets

__all__ = ["BuildSoftTargets", "SoftTargetsOptions"]

_ITEM: Key[NDArray[np.int64]] = Key("batches_item")


class SoftTargetsOptions(Contract):
    """How many tokens of a teacher are learned at each position."""

    n_targets: int = Field(default=20, ge=1)
    in_flight: int = Field(default=64, ge=1)
    """Requests submitted before the oldest is awaited; does not change the targets."""


class BuildSoftTargets(Stage):
    """Put the likeliest tokens of each datum's teacher in the place of its one target per position."""

    name = "build_soft_targets"
    reads = (BATCH, MIXTURE, TEACHERS, _ITEM)
    writes = (BATCH,)
    options_model = SoftTargetsOptions

    async def run(self, ctx: StageContext) -> None:
        """Steps in flight go on meanwhile."""
        mixture, teachers = ctx.get(MIXTURE), ctx.get(TEACHERS)
        made = await soft_targets(
            [teachers[mixture.source_of(int(index))] for index in ctx.get(_ITEM)],
            ctx.get(BATCH),
            n_targets=self.options.n_targets,
            in_flight=self.options.in_flight,
        )
        ctx.set(BATCH, made)
