"""Register the trained model with what it was made from."""

from __future__ import annotations

import math

from crucible_ir import CheckpointRef, DatasetRef, EventType, ModelRef, Ref, digest_of
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import FINAL_WEIGHTS, LAST_EVALUATION, PROVENANCE, STEP

__all__ = ["RegisterModel"]


class RegisterModel(Stage):
    """Register the trained model, its weights and its data, and how they hang together."""

    name = "register_model"
    reads = (FINAL_WEIGHTS, PROVENANCE, STEP)
    optional_reads = (LAST_EVALUATION,)
    optional_ports = ("model_registry",)

    async def run(self, ctx: StageContext) -> None:
        """The same identity is registered once. A run whose problems are generated has no dataset to name.

        Without a registry, and for a model whose held-out loss is not finite, it says so in the log instead.
        """
        metrics = {name: float(value) for name, value in ctx.find(LAST_EVALUATION, {}).items()}
        loss = metrics.get("test/nll", 0.0)
        if not ctx.has_port("model_registry"):
            self._not_registered(ctx, "the manifest names no model_registry")
            return
        if not math.isfinite(loss):
            self._not_registered(ctx, f"the held-out loss is {loss}")
            return
        registry, provenance = ctx.port("model_registry"), ctx.get(PROVENANCE)
        weights = CheckpointRef.model_validate(ctx.get(FINAL_WEIGHTS))
        base = provenance["model"]
        base_model, _ = registry.register(
            ModelRef(id=base["id"], digest=base["digest"]), identity=base["digest"]
        )
        base_key, data_keys = f"{base_model.key}@{base_model.version}", tuple[str, ...]()
        if "dataset" in provenance:
            dataset = DatasetRef.model_validate(provenance["dataset"])
            registry.record(dataset)
            data_keys = (f"{dataset.key}@{dataset.digest}",)
        run = Ref(kind="run", id=ctx.run_id, parents=(*data_keys, base_key))
        for ref in (run, weights.model_copy(update={"parents": (run.key,)})):
            registry.record(ref)
        model, new = registry.register(
            ModelRef(
                id=ctx.experiment.id,
                digest=weights.digest,
                uri=weights.path,
                base_model=base["id"],
                produced_by=ctx.run_id,
                parents=(f"{weights.key}@{weights.digest}", base_key, *data_keys),
                metadata={
                    "recipe": ctx.experiment.recipe,
                    "workflow": ctx.experiment.workflow,
                    "config_digest": ctx.experiment.config_digest,
                    "seed": ctx.experiment.seed,
                    "training": ctx.training.model_dump(mode="json"),
                    "steps": ctx.get(STEP),
                    "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
                    "provenance": provenance,
                },
            ),
            identity=digest_of([weights.digest, ctx.experiment.config_digest, provenance]),
        )
        ctx.emit(EventType.MODEL_REGISTERED, {"model": model.model_dump(mode="json"), "new": new})

    def _not_registered(self, ctx: StageContext, reason: str) -> None:
        ctx.emit(EventType.LOG, {"level": "warning", "message": f"not registered: {reason}"})
