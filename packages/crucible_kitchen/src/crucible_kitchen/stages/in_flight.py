"""Steps that were submitted and not yet awaited, so that neither data nor network is waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from crucible_ir import MetricRow
from crucible_train.ports import Handle, MetricsStore
from crucible_train.types import Datum, ForwardBackwardOutput, OptimStepOutput

__all__ = ["InFlight", "SubmittedStep", "Summarise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedStep:
    """One step: its data, its handles, and the metrics known before it was done."""

    step: int
    batch: Sequence[Datum]
    passes: Sequence[Handle[ForwardBackwardOutput]]
    optims: Sequence[Handle[OptimStepOutput]]
    metrics: Mapping[str, float]


Summarise = Callable[
    [SubmittedStep, Sequence[ForwardBackwardOutput], Sequence[OptimStepOutput]], Mapping[str, float]
]
"""Metrics of a step once its outputs are there."""


@dataclass(slots=True)
class InFlight:
    """Awaits submitted steps in order and logs one row for each."""

    store: MetricsStore
    run_id: str
    summarise: Summarise
    seconds: Callable[[], float]
    show: Callable[[MetricRow], None]
    steps: deque[SubmittedStep] = field(default_factory=deque)

    def submit(self, step: SubmittedStep) -> None:
        """Remember a step that was submitted."""
        self.steps.append(step)

    async def settle(self, ahead: int = 0) -> None:
        """Await and log the oldest steps until at most ``ahead`` remain."""
        while len(self.steps) > ahead:
            step = self.steps[0]
            outputs = [await handle for handle in step.passes]
            optims = [await handle for handle in step.optims]
            row = MetricRow(
                step=step.step,
                metrics=dict(self.summarise(step, outputs, optims)),
                time_s=round(self.seconds(), 6),
            )
            self.store.log(self.run_id, row)
            self.steps.popleft()
            self.show(row)
