"""Open the row of reinforcement-learning steps in flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.stages.in_flight import SubmittedStep, Summarise
from crucible_kitchen.stages.open_metrics import OpenMetrics
from crucible_train.rl import kl_sample_train
from crucible_train.types import ForwardBackwardOutput, OptimStepOutput

__all__ = ["OpenRolloutMetrics"]


class OpenRolloutMetrics(OpenMetrics):
    """Open the row of steps in flight, with the divergence of sampler and trainer under upstream's names."""

    name = "open_rollout_metrics"
    reads = ()

    def summary(self, ctx: StageContext) -> Summarise:
        """An iteration in which nothing could be trained on has no divergence and no loss."""

        def summarise(
            step: SubmittedStep,
            outputs: Sequence[ForwardBackwardOutput],
            optims: Sequence[OptimStepOutput],
        ) -> Mapping[str, float]:
            found = dict(step.metrics)
            if outputs:
                logprobs = [array for output in outputs for array in output.logprobs]
                found |= kl_sample_train(step.batch, logprobs)
                found["loss:sum"] = sum(output.metrics.get("loss:sum", 0.0) for output in outputs)
            return found | (dict(optims[-1].metrics) if optims else {})

        return summarise
