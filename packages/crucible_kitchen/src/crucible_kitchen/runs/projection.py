"""From the events of a run to its record: a pure fold, so that every view can be rebuilt from the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from crucible_ir import Event, EventType, IntegrityError, RunRecord, RunState
from crucible_ir.run import TRANSITIONS

__all__ = ["project"]

_Changes = dict[str, Any]


def _created(event: Event) -> RunRecord:
    if event.type != EventType.RUN_CREATED:
        raise _broken(event, f"begins with {event.type!r}", "the first event of a run is run.created")
    data = event.data
    return RunRecord(
        run_id=event.run_id,
        experiment_id=data["experiment_id"],
        config_digest=data["config_digest"],
        recipe=data.get("recipe"),
        workflow=data.get("workflow"),
        actor=data.get("actor", "local"),
        parent_run=data.get("parent_run"),
        tags=tuple(data.get("tags", ())),
        idempotency_key=data.get("idempotency_key"),
        created_at=event.at,
        last_seq=event.seq,
    )


def _broken(event: Event, what: str, remedy: str) -> IntegrityError:
    return IntegrityError(
        what=f"the log of {event.run_id} {what}",
        where=f"events.jsonl, line {event.seq}",
        remedy=remedy,
    )


def _running(record: RunRecord, event: Event) -> _Changes:
    changes: _Changes = {"ended_at": None, "error": None, "waiting_for": None}
    if record.started_at is None:
        changes["started_at"] = event.at
    if event.type == EventType.RUN_RESUMED:
        changes["step"] = int(event.data.get("step", 0))
    return changes


def _ended(record: RunRecord, event: Event) -> _Changes:
    return {"ended_at": event.at, "waiting_for": None, **_progress(record, event)}


def _failed(record: RunRecord, event: Event) -> _Changes:
    return {"ended_at": event.at, "waiting_for": None, "error": str(event.data.get("error", "unknown"))}


def _waiting(record: RunRecord, event: Event) -> _Changes:
    return {"waiting_for": dict(event.data["request"])}


def _decided(record: RunRecord, event: Event) -> _Changes:
    asked = record.waiting_for
    decision = event.data["decision"]
    if asked is None or asked.get("digest") != decision.get("request_digest") or "decision" in asked:
        return {}
    return {"waiting_for": {**asked, "decision": decision}}


def _progress(record: RunRecord, event: Event) -> _Changes:
    changes: _Changes = {}
    for name in ("step", "total_steps", "epoch"):
        value = event.data.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            changes[name] = value
    metrics = event.data.get("metrics")
    if isinstance(metrics, Mapping):
        changes["metrics"] = {**record.metrics, **_numbers(metrics)}
    return changes


_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
"""How the log writes numbers that JSON does not know."""


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        str(name): float(value)
        for name, value in metrics.items()
        if (isinstance(value, int | float) and not isinstance(value, bool)) or value in _NOT_FINITE
    }


def _nothing(record: RunRecord, event: Event) -> _Changes:
    return {}


_STATES: dict[str, RunState] = {
    EventType.RUN_STARTED: RunState.RUNNING,
    EventType.RUN_RESUMED: RunState.RUNNING,
    EventType.RUN_WAITING: RunState.WAITING_APPROVAL,
    EventType.RUN_INTERRUPTED: RunState.INTERRUPTED,
    EventType.RUN_COMPLETED: RunState.COMPLETED,
    EventType.RUN_FAILED: RunState.FAILED,
    EventType.RUN_CANCELLED: RunState.CANCELLED,
}

_CHANGES: dict[str, Callable[[RunRecord, Event], _Changes]] = {
    EventType.RUN_STARTED: _running,
    EventType.RUN_RESUMED: _running,
    EventType.RUN_WAITING: _waiting,
    EventType.RUN_DECISION: _decided,
    EventType.RUN_PROGRESS: _progress,
    EventType.RUN_COMPLETED: _ended,
    EventType.RUN_FAILED: _failed,
    EventType.RUN_CANCELLED: _ended,
    EventType.CHECKPOINT_SAVED: _progress,
    EventType.EVALUATION_COMPLETED: _progress,
}


def _next(record: RunRecord, event: Event) -> RunRecord:
    changes = _CHANGES.get(event.type, _nothing)(record, event)
    state = _STATES.get(event.type)
    if state is not None:
        if state not in TRANSITIONS[record.state]:
            raise _broken(
                event,
                f"goes from {record.state} to {state}",
                "the log was changed by hand or by two owners; restore it from a copy",
            )
        changes["state"] = state
    elif event.type == EventType.RUN_CREATED:
        raise _broken(event, "creates the run twice", "restore it from a copy")
    changes["last_seq"] = event.seq
    return record.model_copy(update=changes)


def project(events: Iterable[Event], record: RunRecord | None = None) -> RunRecord | None:
    """The record after ``events``, which go on from ``record`` (None: from the beginning).

    None when there is neither a record nor an event.

    Raises:
        IntegrityError: the events do not make a life that a run can have; names the line.
    """
    for event in events:
        try:
            record = _created(event) if record is None else _next(record, event)
        except (KeyError, TypeError, ValueError) as error:
            raise _broken(
                event, f"has a {event.type} event that cannot be read ({error!r})", "restore it from a copy"
            ) from error
    return record
