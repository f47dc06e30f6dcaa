"""Open the row of steps in flight, for soft targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.stages.in_flight import SubmittedStep, Summarise
from crucible_kitchen.stages.keys import IN_FLIGHT
from crucible_kitchen.stages.open_metrics import OpenMetrics
from crucible_train.distillation import soft_target_kl
from crucible_train.supervised import compute_mean_nll
from crucible_train.types import ForwardBackwardOutput, OptimStepOutput

__all__ = ["OpenSoftMetrics"]


class OpenSoftMetrics(OpenMetrics):
    """Open the row of steps in flight, with the distance from the teacher under upstream's names."""

    name = "open_soft_metrics"
    reads = ()
    writes = (IN_FLIGHT,)

    def summary(self, ctx: StageContext) -> Summarise:
        """``train_mean_nll`` is the cross-entropy of the soft targets, ``teacher_kl`` what of it can be learned."""

        def summarise(
            step: SubmittedStep,
            outputs: Sequence[ForwardBackwardOutput],
            optims: Sequence[OptimStepOutput],
        ) -> Mapping[str, float]:
            logprobs = [array for output in outputs for array in output.logprobs]
            weights = [datum.weights for datum in step.batch]
            known = step.metrics
            return {
                **known,
                "batch_size": known["num_sequences"],
                "optim/lr": known["learning_rate"],
                "progress/done_frac": known["progress"],
                "train/loss:sum": sum(output.metrics.get("loss:sum", 0.0) for output in outputs),
                "train_mean_nll": compute_mean_nll(logprobs, weights),
                "teacher_kl": soft_target_kl(logprobs, weights),
                **optims[-1].metrics,
            }

        return summarise
