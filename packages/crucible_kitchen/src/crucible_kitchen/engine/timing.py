"""Durations of stages inside loops, rolled up: a log line per stage and not one per turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crucible_ir import EventType
from crucible_kitchen.engine.plan import PlannedStage

__all__ = ["StageTimes"]


@dataclass(slots=True)
class _Total:
    stage: str
    label: str
    turns: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0


@dataclass(slots=True)
class StageTimes:
    """Count, sum and longest duration by place in the pipeline."""

    totals: dict[str, _Total] = field(default_factory=dict)

    def add(self, planned: PlannedStage, seconds: float) -> None:
        """One turn of a stage."""
        total = self.totals.get(planned.path)
        if total is None:
            total = self.totals[planned.path] = _Total(planned.node.name, planned.label)
        total.turns += 1
        total.seconds += seconds
        total.longest_s = max(total.longest_s, seconds)

    def report(self, emit: Callable[[str, dict[str, Any]], None]) -> None:
        """One ``stage.completed`` event per place, then forget."""
        for total in self.totals.values():
            emit(
                EventType.STAGE_COMPLETED,
                {
                    "stage": total.stage,
                    "label": total.label,
                    "turns": total.turns,
                    "duration_s": round(total.seconds, 6),
                    "longest_s": round(total.longest_s, 6),
                },
            )
        self.totals.clear()
