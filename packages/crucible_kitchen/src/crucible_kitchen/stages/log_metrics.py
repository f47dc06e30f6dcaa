"""Log one row of metrics per step."""

from __future__ import annotations

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.in_flight import SubmittedStep
from crucible_kitchen.stages.keys import (
    BATCH,
    CUMULATIVE,
    EPOCH,
    FORWARD_BACKWARD,
    IN_FLIGHT,
    LEARNING_RATE,
    OPTIM_STEPS,
    PENDING_METRICS,
    STEP,
    TOTAL_STEPS,
)

__all__ = ["LogMetrics"]


class LogMetrics(Stage):
    """Hand this step to those in flight, and log the steps that are done."""

    name = "log_metrics"
    reads = (
        BATCH,
        EPOCH,
        FORWARD_BACKWARD,
        IN_FLIGHT,
        LEARNING_RATE,
        OPTIM_STEPS,
        PENDING_METRICS,
        STEP,
        TOTAL_STEPS,
        CUMULATIVE,
    )
    writes = (CUMULATIVE, STEP)

    async def run(self, ctx: StageContext) -> None:
        """The only place where the step counter moves.

        Waits only for steps older than ``training.submit_ahead``, and after the last step for all of them.
        """
        pending = ctx.get(PENDING_METRICS)
        step, total, batch = ctx.get(STEP), ctx.get(TOTAL_STEPS), ctx.get(BATCH)
        tokens = float(sum(datum.model_input.length for datum in batch))
        so_far = ctx.get(CUMULATIVE)
        ctx.set(CUMULATIVE, {"tokens": so_far.get("tokens", 0.0) + tokens})
        in_flight = ctx.get(IN_FLIGHT)
        in_flight.submit(
            SubmittedStep(
                step=step,
                batch=batch,
                passes=ctx.get(FORWARD_BACKWARD),
                optims=ctx.get(OPTIM_STEPS),
                metrics={
                    "epoch": float(ctx.get(EPOCH)),
                    "progress": (step + 1) / total,
                    "learning_rate": ctx.get(LEARNING_RATE),
                    "num_sequences": float(len(batch)),
                    "num_tokens": tokens,
                    "num_loss_tokens": float(sum(datum.num_loss_tokens for datum in batch)),
                    "tokens/cumulative/trained": ctx.get(CUMULATIVE)["tokens"],
                    **pending,
                },
            )
        )
        ctx.set(STEP, step + 1)
        await in_flight.settle(ctx.training.submit_ahead if step + 1 < total else 0)
