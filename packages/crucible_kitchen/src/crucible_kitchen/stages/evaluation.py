"""What evaluations on held-out data share: the check, and how their figures are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crucible_ir import EventType, MetricRow, Problem
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import LAST_EVALUATION, LAST_EVALUATION_STEP, PENDING_METRICS, STEP

__all__ = ["HeldOutEvaluation"]


class HeldOutEvaluation(Stage):
    """A stage that measures the present weights on held-out data.

    Its options say with ``standalone`` whether the figures get a row of their own or join that of the next step.
    """

    optional_reads = (PENDING_METRICS, LAST_EVALUATION, LAST_EVALUATION_STEP)
    writes = (LAST_EVALUATION, LAST_EVALUATION_STEP, PENDING_METRICS)
    ports = ("metrics_store",)

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """Evaluation that was asked for has something to evaluate on."""
        training = plan.experiment.training
        if training and training.eval_every and plan.experiment.eval_dataset is None:
            return [
                Problem(
                    path="training.eval_every",
                    message=f"evaluation every {training.eval_every} steps without a held-out dataset",
                    remedy="name an eval_dataset, or set eval_every=0",
                )
            ]
        return []

    def tell(self, ctx: StageContext, metrics: Mapping[str, float], *, examples: int, results: str) -> None:
        """Log the figures and where the records are; the stage must read ``STEP``.

        Those of other evaluations of the same step stay beside them; older ones do not.
        """
        step, found = ctx.get(STEP), dict(metrics)
        beside = ctx.find(LAST_EVALUATION, {}) if ctx.find(LAST_EVALUATION_STEP, step) == step else {}
        ctx.set(LAST_EVALUATION, beside | found)
        ctx.set(LAST_EVALUATION_STEP, step)
        ctx.emit(
            EventType.EVALUATION_COMPLETED,
            {
                "evaluator": self.name,
                "step": step,
                "metrics": found,
                "examples": examples,
                "results": results,
            },
        )
        if self.options.standalone:
            row = MetricRow(step=step, metrics=found)
            ctx.port("metrics_store").log(ctx.run_id, row)
            ctx.publish_metrics(row)
        else:
            ctx.set(PENDING_METRICS, ctx.find(PENDING_METRICS, {}) | found)
