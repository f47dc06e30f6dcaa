"""Durations of stages inside loops, rolled up: a log line per stage and not one per turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crucible_ir import EventType

__all__ = ["StageTimes"]


@dataclass(slots=True)
class _Total:
    stage: str
    turns: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0


@dataclass(slots=True)
class StageTimes:
    """Count, sum and longest duration by label."""

    totals: dict[str, _Total] = field(default_factory=dict)

    def add(self, stage: str, label: str, seconds: float) -> None:
        """One turn of a stage."""
        total = self.totals.get(label)
        if total is None:
            total = self.totals[label] = _Total(stage)
        total.turns += 1
        total.seconds += seconds
        total.longest_s = max(total.longest_s, seconds)

    def report(self, emit: Callable[[str, dict[str, Any]], None]) -> None:
        """One ``stage.completed`` event per label, then forget."""
        for label, total in self.totals.items():
            emit(
                EventType.STAGE_COMPLETED,
                {
                    "stage": total.stage,
                    "label": label,
                    "turns": total.turns,
                    "duration_s": round(total.seconds, 6),
                    "longest_s": round(total.longest_s, 6),
                },
            )
        self.totals.clear()
