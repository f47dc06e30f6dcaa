"""The life of a run and the record of it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime, Field

from crucible_ir.contract import Measured
from crucible_ir.json_values import JsonObject

__all__ = ["FINAL_STATES", "TRANSITIONS", "RunRecord", "RunState"]


class RunState(StrEnum):
    """Where a run stands."""

    CREATED = "created"
    RUNNING = "running"
    WAITING_APPROVAL = "waiting_approval"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATES = frozenset({RunState.COMPLETED, RunState.CANCELLED})
"""States that nothing follows; a failed or interrupted run may be resumed."""

TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.CREATED: frozenset({RunState.RUNNING, RunState.CANCELLED, RunState.FAILED}),
    RunState.RUNNING: frozenset(
        {
            RunState.COMPLETED,
            RunState.FAILED,
            RunState.CANCELLED,
            RunState.INTERRUPTED,
            RunState.WAITING_APPROVAL,
        }
    ),
    RunState.WAITING_APPROVAL: frozenset({RunState.RUNNING, RunState.CANCELLED, RunState.FAILED}),
    RunState.INTERRUPTED: frozenset({RunState.RUNNING, RunState.CANCELLED}),
    RunState.FAILED: frozenset({RunState.RUNNING, RunState.CANCELLED}),
    RunState.COMPLETED: frozenset(),
    RunState.CANCELLED: frozenset(),
}


class RunRecord(Measured):
    """A view of a run, derived from its events."""

    schema_version: int = Field(default=1, ge=1, le=1)
    run_id: str
    experiment_id: str
    config_digest: str
    recipe: str | None = None
    workflow: str | None = None
    state: RunState = RunState.CREATED
    actor: str = "local"
    parent_run: str | None = None
    tags: tuple[str, ...] = ()
    idempotency_key: str | None = None
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    step: int = Field(default=0, ge=0)
    """Optimiser steps applied."""
    total_steps: int | None = Field(default=None, ge=0)
    epoch: int = Field(default=0, ge=0)
    metrics: dict[str, float] = Field(default_factory=dict)
    """Last value of each metric."""
    error: str | None = None
    waiting_for: JsonObject | None = None
    """What was asked of a person: question, digest and stage, while the run waits."""
    last_seq: int = Field(default=0, ge=0)
    """Sequence number of the last event this view includes."""
