"""Write the run's report."""

from __future__ import annotations

from crucible_ir import ArtifactRef, EventType, digest_bytes
from crucible_kitchen.atomic import write_atomic
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.reports.facts import gather
from crucible_kitchen.reports.markdown import markdown
from crucible_kitchen.reports.page import page
from crucible_kitchen.stages.cost import reconcile_cost
from crucible_kitchen.stages.keys import FINAL_WEIGHTS, PROVENANCE

__all__ = ["WriteReport"]


class WriteReport(Stage):
    """Write ``report.md`` and ``report.html``: result, curves, samples, identity."""

    name = "write_report"
    reads = (PROVENANCE,)
    optional_reads = (FINAL_WEIGHTS,)
    ports = ("metrics_store",)
    optional_ports = ("training_backend",)

    async def run(self, ctx: StageContext) -> None:
        """Both files hold the same facts; the page needs no network and no script."""
        reconcile_cost(ctx)
        provenance = ctx.get(PROVENANCE)
        facts = gather(
            ctx.run_dir,
            experiment=ctx.experiment,
            provenance=provenance,
            rows=ctx.port("metrics_store").read(ctx.run_id),
            weights=ctx.find(FINAL_WEIGHTS, {}) or None,
        )
        for name, media_type, text in (
            ("report.md", "text/markdown", markdown(facts)),
            ("report.html", "text/html", page(facts)),
        ):
            data = ctx.redact(text).encode()
            write_atomic(ctx.run_dir / name, data)
            artifact = ArtifactRef(
                id=f"{ctx.run_id}/{name}",
                uri=name,
                media_type=media_type,
                size_bytes=len(data),
                digest=digest_bytes(data),
                produced_by=ctx.run_id,
            )
            ctx.emit(
                EventType.ARTIFACT_WRITTEN, {"artifact": artifact.model_dump(mode="json"), "role": "report"}
            )
