"""The seam between a run and the engine that executes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from crucible_ir import CheckpointRef, Experiment
from crucible_ir.approvals import ApprovalDecision, ApprovalRequest

__all__ = ["Clock", "Emit", "Outcome", "Ports", "ResumePoint", "RunScope"]

Emit = Callable[[str, Mapping[str, Any]], None]
"""Appends one event to the run's log: type and JSON data."""

Clock = Callable[[], float]
"""Monotonic seconds."""


class Ports(Protocol):
    """The adapters that a manifest chose, built when first asked for."""

    def names(self) -> frozenset[str]:
        """Ports for which the manifest names an adapter."""
        ...

    def get(self, name: str) -> Any:
        """The adapter of a port; the same object each time.

        Raises:
            AdapterError: the manifest names none, or it cannot be built.
        """
        ...

    async def aclose(self) -> None:
        """Close every adapter that was built."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """Where to go on: a saved state and the place in the pipeline right after it was saved."""

    checkpoint: CheckpointRef
    cursor: tuple[int, ...]
    state: Mapping[str, Any]
    metrics_position: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunScope:
    """What a run gives to the engine."""

    run_id: str
    run_dir: Path
    experiment: Experiment
    ports: Ports
    emit: Emit
    decision_for: Callable[[str], ApprovalDecision | None]
    cancel_requested: Callable[[], bool]
    clock: Clock
    resume: ResumePoint | None = None
    processes: int = 1
    """How many train together; this one is their first."""
    redact: Callable[[str], str] = str
    """Takes secrets out of a text before it is written."""
    listeners: tuple[Callable[[str, Mapping[str, Any]], None], ...] = field(default=())
    """Called with each event and with ``metrics`` rows, for progress display; never stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the pipeline ended: whole, or suspended until a decision arrives."""

    suspended: ApprovalRequest | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
