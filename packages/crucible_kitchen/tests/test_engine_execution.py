from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import (
    CancelledRun,
    ConfigError,
    Experiment,
    IfDef,
    LoopDef,
    ParallelDef,
    RetryPolicy,
    ServiceError,
    StageDef,
    TrainError,
)
from crucible_ir.approvals import ApprovalDecision, ApprovalRequest
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_testing.engine import ALL, Catalog, Fail, Recorder, Undo, resume_point


def note(text: str) -> StageDef:
    return StageDef(name="note", options={"text": text})


def experiment(*nodes: object, **options: object) -> Experiment:
    return Experiment(id="toy", pipeline=(StageDef(name="begin", options=dict(options)), *nodes))


def yes(request: ApprovalRequest) -> ApprovalDecision:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return ApprovalDecision(request_digest=request.digest, approved=True, actor="ann", at=at)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Fail.calls.clear()
    Undo.undone.clear()


def test_stages_run_in_order() -> None:
    outcome = Recorder(experiment(note("a"), note("b"))).run()
    assert outcome.results["trace"] == ["a", "b"]


def test_a_loop_runs_its_body_once_per_item_and_nests() -> None:
    loop = LoopDef(
        name="outer", over="rounds", body=(note("o"), LoopDef(name="inner", over="rounds", body=(note("i"),)))
    )
    assert Recorder(experiment(loop, rounds=2)).run().results["trace"] == ["o", "i", "i", "o", "i", "i"]


def test_a_loop_over_zero_runs_nothing() -> None:
    loop = LoopDef(name="l", over="rounds", body=(note("x"),))
    assert Recorder(experiment(loop, rounds=0)).run().results["trace"] == []


def test_a_loop_over_a_negative_count_is_refused() -> None:
    with pytest.raises(ConfigError, match="'rounds' = -1"):
        Recorder(experiment(LoopDef(name="l", over="rounds", body=(note("x"),)), rounds=-1)).run()


@pytest.mark.parametrize(("flag", "trace"), [(True, ["yes"]), (False, ["no"])])
def test_a_condition_takes_the_branch_its_key_says(flag: bool, trace: list[str]) -> None:
    node = IfDef(when="flag", body=(note("yes"),), otherwise=(note("no"),))
    assert Recorder(experiment(node, flag=flag)).run().results["trace"] == trace


def test_a_disabled_stage_does_not_run() -> None:
    off = StageDef(name="note", options={"text": "off"}, enabled=False)
    recorder = Recorder(experiment(off, note("on")))
    assert recorder.run().results["trace"] == ["on"]
    assert [data["label"] for data in recorder.of("stage.started")] == ["begin", "note"]


def test_the_first_error_stops_the_rest_and_names_the_stage() -> None:
    recorder = Recorder(experiment(note("a"), StageDef(name="fail"), note("never")))
    with pytest.raises(TrainError, match="broken"):
        recorder.run()
    assert recorder.of("stage.failed")[0]["label"] == "fail"
    assert recorder.kinds().count("stage.started") == 3


def test_completed_stages_are_rolled_back_in_reverse_order() -> None:
    nodes = [
        StageDef(name="undo", label="first"),
        StageDef(name="undo", label="second"),
        StageDef(name="fail"),
    ]
    recorder = Recorder(experiment(*nodes))
    with pytest.raises(TrainError):
        recorder.run()
    assert Undo.undone == ["second", "first"]
    assert [data["label"] for data in recorder.of("stage.rolled_back")] == ["second", "first"]


def test_a_run_that_completes_rolls_nothing_back() -> None:
    Recorder(experiment(StageDef(name="undo"))).run()
    assert Undo.undone == []


def test_a_retryable_error_is_tried_again_as_often_as_asked() -> None:
    stage = StageDef(
        name="fail", options={"after": 2, "retryable": True}, retry=RetryPolicy(attempts=3, wait_s=0)
    )
    recorder = Recorder(experiment(stage, note("after")))
    assert recorder.run().results["trace"] == ["after"]
    assert [data["attempt"] for data in recorder.of("stage.retried")] == [1, 2]


def test_an_error_that_is_not_retryable_is_tried_once() -> None:
    stage = StageDef(name="fail", options={"after": 2}, retry=RetryPolicy(attempts=3, wait_s=0))
    with pytest.raises(TrainError):
        Recorder(experiment(stage)).run()
    assert len(Fail.calls) == 1


def test_a_stage_that_outlasts_its_timeout_fails_with_the_number() -> None:
    with pytest.raises(ServiceError, match=r"timeout_s = 0\.01"):
        Recorder(experiment(StageDef(name="sleep", timeout_s=0.01))).run()


def test_a_request_to_cancel_ends_a_stage_that_never_would() -> None:
    asked = iter([False, False, True])
    recorder = Recorder(experiment(StageDef(name="undo"), StageDef(name="sleep")))
    recorder.cancel = lambda: next(asked, True)
    with pytest.raises(CancelledRun):
        recorder.run()
    assert Undo.undone == []


def test_a_cancelled_run_starts_no_further_stage() -> None:
    recorder = Recorder(experiment(note("never")))
    recorder.cancel = lambda: True
    with pytest.raises(CancelledRun):
        recorder.run()
    assert recorder.kinds().count("stage.completed") == 0


def test_parallel_branches_all_run_and_the_rest_follows() -> None:
    branches = ParallelDef(
        name="p", branches=((StageDef(name="undo", label="x"),), (StageDef(name="undo", label="y"),))
    )
    recorder = Recorder(experiment(branches, note("z")))
    assert recorder.run().results["trace"] == ["z"]
    assert {data["label"] for data in recorder.of("stage.completed")} >= {"x", "y", "note"}


def test_a_failing_branch_stops_its_siblings() -> None:
    branches = ParallelDef(name="p", branches=((StageDef(name="sleep"),), (StageDef(name="fail"),)))
    with pytest.raises(TrainError):
        Recorder(experiment(branches)).run()


def test_a_question_suspends_the_run_and_its_decision_lets_it_go_on() -> None:
    recorder = Recorder(experiment(note("a"), StageDef(name="ask"), note("b")))
    request = recorder.run().suspended
    assert request is not None
    assert request.payload == {"count": 1}
    recorder.decisions[request.digest] = yes(request)
    assert recorder.run().results["trace"] == ["a", "approved=True", "b"]


def test_a_decision_on_another_payload_does_not_count() -> None:
    first = Recorder(experiment(note("a"), StageDef(name="ask")))
    request = first.run().suspended
    assert request is not None
    other = Recorder(experiment(note("a"), note("b"), StageDef(name="ask")))
    other.decisions[request.digest] = yes(request)
    assert other.run().suspended is not None


def test_stages_in_a_loop_are_logged_as_one_event_with_their_turns() -> None:
    recorder = Recorder(experiment(LoopDef(name="l", over="rounds", body=(note("x"),)), rounds=5))
    recorder.run()
    (total,) = [data for data in recorder.of("stage.completed") if data["label"] == "note"]
    assert total["turns"] == 5


def looped(rounds: int) -> Experiment:
    body = (note("a"), IfDef(when="flag", body=(note("b"), StageDef(name="save"))), note("c"))
    outer = LoopDef(
        name="outer", over="rounds", body=(note("o"), LoopDef(name="inner", over="rounds", body=body))
    )
    return experiment(note("once"), outer, StageDef(name="save", label="last"), note("end"), rounds=rounds)


@given(st.data())
def test_a_run_resumed_from_any_checkpoint_does_exactly_the_rest(data: st.DataObject) -> None:
    rounds = data.draw(st.integers(1, 3))
    whole = Recorder(looped(rounds))
    expected = whole.run().results["trace"]
    saved = whole.of("checkpoint.saved")
    point = resume_point(data.draw(st.sampled_from(saved)))
    assert Recorder(looped(rounds)).run(point).results["trace"] == expected


def test_every_built_in_toy_stage_describes_itself() -> None:
    for name in ALL.names():
        described = ALL.get(name).describe()
        assert described["name"] == name
        assert described["summary"]


class Bug(Stage):
    """Divide by zero."""

    name = "bug"

    async def run(self, ctx: StageContext) -> None:
        raise ZeroDivisionError("division by zero")


def test_a_bug_in_a_stage_comes_out_as_itself_after_rollback() -> None:
    catalog = Catalog(*[ALL.get(name) for name in ALL.names()], Bug)
    recorder = Recorder(experiment(StageDef(name="undo"), StageDef(name="bug")), catalog=catalog)
    with pytest.raises(ZeroDivisionError):
        recorder.run()
    assert recorder.of("stage.failed")[0]["error"] == "ZeroDivisionError: division by zero"
    assert Undo.undone == ["undo"]
