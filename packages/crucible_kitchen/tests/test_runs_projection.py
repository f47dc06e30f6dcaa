from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import FINAL_STATES, TRANSITIONS, Event, IntegrityError, RunState
from crucible_kitchen.runs.projection import project

RUN = "run_1_0000abcd"
START = datetime(2026, 1, 1, tzinfo=UTC)
CREATED = {"experiment_id": "e", "config_digest": "sha256:0", "actor": "ann", "tags": ["a"]}
EVENT_OF = {
    RunState.WAITING_APPROVAL: ("run.waiting_approval", {"request": {"digest": "d", "question": "?"}}),
    RunState.INTERRUPTED: ("run.interrupted", {}),
    RunState.COMPLETED: ("run.completed", {}),
    RunState.FAILED: ("run.failed", {"error": "broke"}),
    RunState.CANCELLED: ("run.cancelled", {}),
}


def log(*events: tuple[str, dict[str, Any]]) -> list[Event]:
    return [
        Event(seq=n, run_id=RUN, type=kind, at=START + timedelta(seconds=n), data=data)
        for n, (kind, data) in enumerate([("run.created", CREATED), *events], start=1)
    ]


def to_running(state: RunState) -> tuple[str, dict[str, Any]]:
    return ("run.started" if state is RunState.CREATED else "run.resumed"), {"step": 3}


def test_creation_gives_the_first_record() -> None:
    record = project(log())
    assert record is not None
    assert (record.state, record.actor, record.tags, record.last_seq) == (RunState.CREATED, "ann", ("a",), 1)
    assert record.created_at == START + timedelta(seconds=1)


def test_nothing_projects_to_nothing() -> None:
    assert project([]) is None


def test_a_life_from_start_to_failure_to_completion() -> None:
    record = project(
        log(
            ("run.started", {}),
            ("run.progress", {"step": 5, "total_steps": 9, "epoch": 1, "metrics": {"loss": 2, "name": "x"}}),
            ("run.failed", {"error": "broke"}),
            ("run.resumed", {"step": 4}),
            ("checkpoint.saved", {"step": 8}),
            ("evaluation.completed", {"metrics": {"nll": 1.5}}),
            ("run.completed", {"step": True}),
        )
    )
    assert record is not None
    assert (record.state, record.step, record.total_steps, record.epoch) == (RunState.COMPLETED, 8, 9, 1)
    assert record.metrics == {"loss": 2.0, "nll": 1.5}
    assert record.error is None
    assert record.started_at == START + timedelta(seconds=2)
    assert record.ended_at == START + timedelta(seconds=8)


def test_a_decision_joins_what_is_asked_and_the_first_counts() -> None:
    asked = ("run.waiting_approval", {"request": {"digest": "d", "question": "?"}})
    wrong = ("run.decision", {"decision": {"request_digest": "other", "approved": True}})
    yes = ("run.decision", {"decision": {"request_digest": "d", "approved": True, "actor": "ann"}})
    no = ("run.decision", {"decision": {"request_digest": "d", "approved": False, "actor": "bob"}})
    record = project(log(("run.started", {}), asked, wrong, yes, no))
    assert record is not None
    assert record.state is RunState.WAITING_APPROVAL
    assert record.waiting_for is not None
    assert record.waiting_for["decision"]["actor"] == "ann"
    resumed = project(log(("run.started", {}), asked, yes, ("run.resumed", {})))
    assert resumed is not None
    assert resumed.waiting_for is None


def reach(state: RunState) -> list[tuple[str, dict[str, Any]]]:
    if state is RunState.CREATED:
        return []
    if state is RunState.RUNNING:
        return [("run.started", {})]
    return [("run.started", {}), EVENT_OF[state]]


@pytest.mark.parametrize("before", RunState)
@pytest.mark.parametrize("after", [s for s in RunState if s is not RunState.CREATED])
def test_exactly_the_legal_transitions_are_accepted(before: RunState, after: RunState) -> None:
    step = to_running(before) if after is RunState.RUNNING else EVENT_OF[after]
    events = log(*reach(before), step)
    if after in TRANSITIONS[before]:
        record = project(events)
        assert record is not None
        assert record.state is after
    else:
        with pytest.raises(IntegrityError, match=f"from {before} to {after}"):
            project(events)


def test_nothing_follows_a_final_state() -> None:
    assert all(not TRANSITIONS[state] for state in FINAL_STATES)


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([("run.created", CREATED)], "creates the run twice"),
        ([("run.started", {}), ("run.waiting_approval", {})], "cannot be read"),
    ],
)
def test_a_log_that_makes_no_life_names_the_line(events: list[Any], says: str) -> None:
    with pytest.raises(IntegrityError, match=f"line {len(events) + 1}: .*{says}"):
        project(log(*events))


def test_a_log_must_begin_with_the_creation() -> None:
    with pytest.raises(IntegrityError, match=r"begins with 'run\.started'"):
        project(log(("run.started", {}))[1:])


@given(st.data())
def test_folding_in_two_parts_is_folding_at_once(data: st.DataObject) -> None:
    state, steps = RunState.CREATED, []
    for _ in range(data.draw(st.integers(0, 8))):
        if not TRANSITIONS[state]:
            break
        after = data.draw(st.sampled_from(sorted(TRANSITIONS[state])))
        steps.append(to_running(state) if after is RunState.RUNNING else EVENT_OF[after])
        steps.append(("run.progress", {"step": data.draw(st.integers(0, 99)), "metrics": {"m": 1.0}}))
        state = after
    events = log(*steps)
    cut = data.draw(st.integers(0, len(events)))
    assert project(events[cut:], project(events[:cut])) == project(events)
