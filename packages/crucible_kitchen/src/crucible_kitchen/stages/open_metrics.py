"""Open the row of steps in flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.in_flight import InFlight, SubmittedStep, Summarise
from crucible_kitchen.stages.keys import IN_FLIGHT, TOKENIZER
from crucible_train.ports import Tokenizer
from crucible_train.supervised import compute_bpb, compute_mean_nll
from crucible_train.types import ForwardBackwardOutput, OptimStepOutput

__all__ = ["OpenMetrics"]


class OpenMetrics(Stage):
    """Open the row of steps in flight, which logs to the metrics store."""

    name = "open_metrics"
    reads: ClassVar[tuple[Key[Any], ...]] = (TOKENIZER,)
    writes = (IN_FLIGHT,)
    ports = ("metrics_store",)
    setup = True

    async def run(self, ctx: StageContext) -> None:
        """Steps still in flight when the run is closed are awaited by the session's own close."""
        started = ctx.seconds()
        ctx.set(
            IN_FLIGHT,
            InFlight(
                store=ctx.port("metrics_store"),
                run_id=ctx.run_id,
                summarise=self.summary(ctx),
                seconds=lambda: ctx.seconds() - started,
                show=ctx.publish_metrics,
            ),
        )

    def summary(self, ctx: StageContext) -> Summarise:
        """What a step's row holds besides what was known when it was submitted."""
        tokenizer = ctx.get(TOKENIZER)

        def summarise(
            step: SubmittedStep,
            outputs: Sequence[ForwardBackwardOutput],
            optims: Sequence[OptimStepOutput],
        ) -> Mapping[str, float]:
            return {**step.metrics, **supervised_metrics(step, outputs, tokenizer), **optims[-1].metrics}

        return summarise


def supervised_metrics(
    step: SubmittedStep, outputs: Sequence[ForwardBackwardOutput], tokenizer: Tokenizer
) -> dict[str, float]:
    """Mean NLL per weighted token and bits per byte of the step's batch, under upstream's names."""
    logprobs = [array for output in outputs for array in output.logprobs]
    weights = [datum.weights for datum in step.batch]
    return {
        "train_mean_nll": compute_mean_nll(logprobs, weights),
        "train_mean_bpb": compute_bpb(
            logprobs, weights, [datum.target_tokens for datum in step.batch], tokenizer
        ),
    }
