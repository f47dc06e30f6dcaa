"""Stand where a dataset would be loaded."""

from __future__ import annotations

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import PROVENANCE

__all__ = ["NoDataset"]


class NoDataset(Stage):
    """Say that problems are generated: no dataset takes part in the run."""

    name = "no_dataset"
    optional_reads = (PROVENANCE,)
    writes = (PROVENANCE,)
    setup = True

    async def run(self, ctx: StageContext) -> None:
        """What a resumed run knows of its origin stays."""
        ctx.set(PROVENANCE, ctx.find(PROVENANCE, {}))
