"""Open the row of preference steps in flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.stages.in_flight import SubmittedStep, Summarise
from crucible_kitchen.stages.open_metrics import OpenMetrics
from crucible_train.types import ForwardBackwardOutput, OptimStepOutput

__all__ = ["OpenPairMetrics"]


class OpenPairMetrics(OpenMetrics):
    """Open the row of steps in flight, with the metrics of a preference loss under upstream's names."""

    name = "open_pair_metrics"
    reads = ()

    def summary(self, ctx: StageContext) -> Summarise:
        """What the loss itself reports: dpo_loss, accuracy, margin, rewards, num_pairs."""

        def summarise(
            step: SubmittedStep,
            outputs: Sequence[ForwardBackwardOutput],
            optims: Sequence[OptimStepOutput],
        ) -> Mapping[str, float]:
            (output,) = outputs
            return {**step.metrics, **output.metrics, **optims[-1].metrics}

        return summarise
