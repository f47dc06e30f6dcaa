"""Save the final weights."""

from __future__ import annotations

from pydantic import Field

from crucible_ir import ArtifactRef, Contract, EventType
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import FINAL_WEIGHTS, IN_FLIGHT, SESSION, STEP

__all__ = ["SaveWeights", "SaveWeightsOptions"]


class SaveWeightsOptions(Contract):
    """Under which name."""

    checkpoint: str = Field(default="final", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class SaveWeights(Stage):
    """Save the weights alone, for sampling, export and registration."""

    name = "save_weights"
    reads = (SESSION, STEP, IN_FLIGHT)
    writes = (FINAL_WEIGHTS,)
    options_model = SaveWeightsOptions

    async def run(self, ctx: StageContext) -> None:
        """Complete on disk when the stage is done."""
        await ctx.get(IN_FLIGHT).settle()
        ref = await ctx.get(SESSION).save_weights_for_sampler(self.options.checkpoint)
        ref = ref.model_copy(update={"produced_by": ctx.run_id, "step": ctx.get(STEP)})
        ctx.set(FINAL_WEIGHTS, ref.model_dump(mode="json"))
        artifact = ArtifactRef(
            id=f"{ctx.run_id}/{self.options.checkpoint}",
            uri=ref.path,
            digest=ref.digest,
            produced_by=ctx.run_id,
        )
        ctx.emit(
            EventType.ARTIFACT_WRITTEN, {"artifact": artifact.model_dump(mode="json"), "role": "weights"}
        )
