"""Events: everything that happens to a run, one line each in its log."""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime, Field

from crucible_ir.contract import Contract, Measured
from crucible_ir.json_values import MeasuredObject

__all__ = ["Event", "EventType", "MetricRow", "Usage"]


class EventType(StrEnum):
    """Names of the events of the core; others add theirs under a prefix of their own."""

    RUN_CREATED = "run.created"
    RUN_STARTED = "run.started"
    RUN_RESUMED = "run.resumed"
    RUN_PROGRESS = "run.progress"
    RUN_CANCEL_REQUESTED = "run.cancel_requested"
    RUN_WAITING = "run.waiting_approval"
    RUN_DECISION = "run.decision"
    RUN_INTERRUPTED = "run.interrupted"
    RUN_COMPLETED = "run.completed"
    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"
    STAGE_STARTED = "stage.started"
    STAGE_COMPLETED = "stage.completed"
    STAGE_FAILED = "stage.failed"
    STAGE_RETRIED = "stage.retried"
    STAGE_ROLLED_BACK = "stage.rolled_back"
    DATASET_LOADED = "dataset.loaded"
    CHECKPOINT_SAVED = "checkpoint.saved"
    EVALUATION_COMPLETED = "evaluation.completed"
    MODEL_REGISTERED = "model.registered"
    ARTIFACT_WRITTEN = "artifact.written"
    LOG = "log"


class Event(Measured):
    """One thing that happened; ``seq`` is contiguous from 1 within a run."""

    schema_version: int = Field(default=1, ge=1, le=1)
    seq: int = Field(ge=1)
    run_id: str
    type: str
    """An ``EventType`` value, or a dotted name of an extension."""
    at: AwareDatetime
    data: MeasuredObject = Field(default_factory=dict)


class MetricRow(Measured):
    """The metrics of one step."""

    step: int = Field(ge=0)
    metrics: dict[str, float]
    time_s: float | None = Field(default=None, ge=0)
    """Seconds since the run started; left out of comparisons of runs."""


class Usage(Contract):
    """What was used and what it cost."""

    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    training_tokens: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0)
    cost_usd: float | None = Field(default=None, ge=0)
