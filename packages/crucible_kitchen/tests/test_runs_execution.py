from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import (
    AdapterError,
    CancelledRun,
    ConfigError,
    ConflictError,
    CrucibleError,
    ExitCode,
    Experiment,
    IntegrityError,
    NotFoundError,
    RunState,
    StorageError,
    TrainError,
)
from crucible_ir.approvals import ApprovalDecision
from crucible_kitchen.api import Crucible
from crucible_kitchen.engine.scope import Outcome, RunScope
from crucible_kitchen.manifests.loading import load_manifest
from crucible_kitchen.runs import requests
from crucible_kitchen.runs.attempt import Engine, InterruptedRun
from crucible_kitchen.runs.checkpoints import resume_point, saved_checkpoints, verify_checkpoint
from crucible_kitchen.runs.execution import RunExecutor
from crucible_kitchen.runs.folder import RunFolder, RunSettings
from crucible_kitchen.runs.home import Home
from crucible_kitchen.runs.lease import LeaseSettings
from crucible_kitchen.runs.store import RunStore
from crucible_telemetry.events.log import LogSettings

Make = Callable[..., Experiment]
SECRET = "planted-secret-9317"

pytestmark = pytest.mark.usefixtures("probe")


@pytest.fixture
def crucible(home: Path) -> Crucible:
    return Crucible(home)


def created(home: Path, experiment: Experiment, settings: RunSettings | None = None) -> RunFolder:
    return RunStore(Home(home), settings=settings).create(experiment, load_manifest("test"))


def executor(home: Path, **environ: str) -> RunExecutor:
    return RunExecutor(Home(home), environ=environ)


def kinds(run: RunFolder) -> list[str]:
    return [
        event.type for event in run.events() if event.type.startswith("run.") and "progress" not in event.type
    ]


def steps(run: RunFolder) -> list[int]:
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def release(home: Path) -> None:
    (home / "runs" / "released").touch()


def test_a_run_goes_from_created_to_completed(home: Path, experiment: Make) -> None:
    run = created(home, experiment())
    record = executor(home).start(run)
    assert record.state is RunState.COMPLETED
    assert (record.step, record.metrics) == (4, {"probe/total": 4.0})
    assert kinds(run) == ["run.created", "run.started", "run.completed"]
    assert run.events()[-1].data["results"] == {"total": 4}
    assert run.owner() is None


def test_listeners_are_told_events_and_metrics(home: Path, experiment: Make) -> None:
    told: list[str] = []

    def listen(kind: str, data: Mapping[str, Any]) -> None:
        told.append(kind)

    run = created(home, experiment())
    RunExecutor(Home(home), environ={}, listeners=(listen,)).start(run)
    assert told[0] == "run.started"
    assert told[-1] == "run.completed"
    assert told.count("checkpoint.saved") == 4


def test_a_started_run_is_not_started_again(home: Path, experiment: Make) -> None:
    run = created(home, experiment())
    executor(home).start(run)
    with pytest.raises(ConflictError, match="was started before"):
        executor(home).start(run)
    with pytest.raises(ConflictError, match="is completed"):
        executor(home).resume(run)


def test_adapters_that_were_prepared_for_a_refused_start_are_closed(home: Path, experiment: Make) -> None:
    run = created(home, experiment())
    executor(home).start(run)
    prepared = executor(home).prepare(run.experiment(), run.manifest())
    closed: list[str] = []

    async def aclose() -> None:
        closed.append("ports")

    object.__setattr__(prepared.ports, "aclose", aclose)
    with pytest.raises(ConflictError):
        executor(home).start(run, prepared)
    assert closed == ["ports"]


def test_a_failure_is_written_down_and_resumed_from_the_last_checkpoint(home: Path, experiment: Make) -> None:
    run = created(home, experiment(fail_at=3))
    with pytest.raises(TrainError, match="broke with no key"):
        executor(home).start(run)
    record = run.record()
    assert record.state is RunState.FAILED
    assert record.error is not None
    assert "broke with no key" in record.error
    assert run.events()[-1].data["exit_code"] == TrainError.exit_code
    release(home)
    again = executor(home).resume(run)
    assert again.state is RunState.COMPLETED
    assert again.error is None
    assert steps(run) == [1, 2, 3, 4]
    resumed = next(event for event in run.events() if event.type == "run.resumed")
    assert resumed.data["checkpoint"] == "step_000003"
    assert resumed.data["step"] == 3


def test_metrics_after_the_checkpoint_are_dropped_and_orphans_removed(home: Path, experiment: Make) -> None:
    run = created(home, experiment(fail_at=2))
    with pytest.raises(TrainError):
        executor(home).start(run)
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step":3,"metrics":{"probe/total":99.0}}\n')
    (run.checkpoints_path / "step_000003").mkdir()
    (run.checkpoints_path / ".step_000003.draft-1").mkdir()
    (run.checkpoints_path / "stray").write_text("x")
    release(home)
    executor(home).resume(run)
    assert steps(run) == [1, 2, 3, 4]
    removed = next(event.data["removed"] for event in run.events() if event.type == "run.resumed")
    assert removed == [".step_000003.draft-1", "step_000003", "stray"]


def test_without_a_checkpoint_a_run_begins_anew(home: Path, experiment: Make) -> None:
    run = created(home, experiment(fail_at=3, save=False))
    with pytest.raises(TrainError):
        executor(home).start(run)
    assert resume_point(run) is None
    release(home)
    assert executor(home).resume(run).step == 4
    assert steps(run) == [1, 2, 3, 4]


def test_a_corrupt_checkpoint_names_the_file_and_an_older_one_that_works(
    home: Path, experiment: Make
) -> None:
    run = created(home, experiment(fail_at=3))
    with pytest.raises(TrainError):
        executor(home).start(run)
    before = run.events()
    weights = run.checkpoints_path / "step_000003" / "weights.json"
    weights.write_bytes(weights.read_bytes().replace(b"3", b"4"))
    release(home)
    with pytest.raises(IntegrityError) as caught:
        executor(home).resume(run)
    told = str(caught.value)
    assert f"{weights} does not hold the bytes that were saved" in told
    assert f"crucible resume {run.run_id} --checkpoint step_000002" in told
    assert caught.value.exit_code == ExitCode.INTEGRITY
    assert run.events() == before
    assert executor(home).resume(run, "step_000002").state is RunState.COMPLETED
    assert steps(run) == [1, 2, 3, 4]
    assert [saved.name for saved in saved_checkpoints(run.events())] == [
        f"step_{n:06d}" for n in (1, 2, 3, 4)
    ]
    verify_checkpoint(run.checkpoints_path / "step_000003")


def test_the_only_checkpoint_being_corrupt_says_to_start_anew(home: Path, experiment: Make) -> None:
    run = created(home, experiment(fail_at=1))
    with pytest.raises(TrainError):
        executor(home).start(run)
    (run.checkpoints_path / "step_000001" / "weights.json").unlink()
    with pytest.raises(IntegrityError, match=r"cannot be read \(No such file.*no older checkpoint is left"):
        executor(home).resume(run)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "is missing"),
        ("{", "cannot be read"),
        ('{"files": {"a": 1}, "digest": "x"}', "cannot be read"),
        ('{"files": {}, "digest": "sha256:0"}', "is not the one that was saved"),
    ],
)
def test_a_checkpoint_without_a_true_manifest_is_corrupt(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError, match=says):
        verify_checkpoint(tmp_path)


def test_an_unknown_checkpoint_is_told_with_the_nearest(home: Path, experiment: Make) -> None:
    run = created(home, experiment(fail_at=2))
    with pytest.raises(TrainError):
        executor(home).start(run)
    with pytest.raises(NotFoundError, match=r"no checkpoint 'step_00001'; did you mean 'step_000001'"):
        executor(home).resume(run, "step_00001")
    with pytest.raises(NotFoundError, match="it has step_000001, step_000002"):
        executor(home).resume(run, "zzz")


def test_a_home_that_was_moved_is_resumed_in_its_new_place(
    home: Path, tmp_path: Path, experiment: Make
) -> None:
    run = created(home, experiment(fail_at=2))
    with pytest.raises(TrainError):
        executor(home).start(run)
    moved = tmp_path / "moved"
    home.rename(moved)
    release(moved)
    again = RunStore(Home(moved)).open(run.run_id)
    assert executor(moved).resume(again).state is RunState.COMPLETED


def test_an_unreadable_checkpoint_event_is_told_with_its_line(home: Path, experiment: Make) -> None:
    run = created(home, experiment())
    run.append("checkpoint.saved", {"step": 1})
    with pytest.raises(IntegrityError, match=r"events.jsonl, line 2"):
        resume_point(run)


# --- plans and adapters ------------------------------------------------------------------------------------


def test_a_plan_that_does_not_hold_fails_the_created_run(home: Path, experiment: Make) -> None:
    run = created(home, experiment(hold_att=1))
    with pytest.raises(ConfigError, match="did you mean 'hold_at'"):
        executor(home).start(run)
    assert run.record().state is RunState.FAILED
    assert run.events()[-1].data["exit_code"] == ExitCode.USAGE


def test_a_resume_that_cannot_begin_leaves_the_run_as_it_is(home: Path, experiment: Make) -> None:
    run = created(home, experiment(fail_at=2))
    with pytest.raises(TrainError):
        executor(home).start(run)
    before = run.events()

    def compile(*_: Any) -> Any:
        raise ImportError("no module", name="sdk_absent")

    broken = RunExecutor(Home(home), environ={}, engine=Engine(compile=compile, execute=never))
    with pytest.raises(AdapterError, match="'sdk_absent' cannot be imported"):
        broken.resume(run)
    assert run.events() == before


async def never(plan: Any, scope: RunScope) -> Outcome:
    raise AssertionError


def failing(error: BaseException) -> Engine:
    async def execute(plan: Any, scope: RunScope) -> Outcome:
        raise error

    return Engine(compile=lambda experiment, ports: None, execute=execute)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError, ExitCode.STORAGE),
        (ModuleNotFoundError("No module named 'x'", name="x"), AdapterError, ExitCode.ADAPTER),
        (OSError(errno.EIO, "broken"), OSError, ExitCode.FAILED),
        (ValueError(), ValueError, ExitCode.FAILED),
    ],
)
def test_whatever_happens_is_written_down(
    home: Path, experiment: Make, error: Exception, kind: type[Exception], code: ExitCode
) -> None:
    run = created(home, experiment())
    with pytest.raises(kind):
        RunExecutor(Home(home), environ={}, engine=failing(error)).start(run)
    ending = run.events()[-1]
    assert (ending.type, ending.data["exit_code"]) == ("run.failed", code)
    assert ending.data["error"]
    assert run.owner() is None


def test_the_engines_word_that_it_was_cancelled_ends_the_run(home: Path, experiment: Make) -> None:
    run = created(home, experiment())
    with pytest.raises(CancelledRun):
        RunExecutor(Home(home), environ={}, engine=failing(CancelledRun(what="cancelled"))).start(run)
    assert run.record().state is RunState.CANCELLED


# --- signals -----------------------------------------------------------------------------------------------


def signalled(number: int) -> Engine:
    async def execute(plan: Any, scope: RunScope) -> Outcome:
        import anyio

        os.kill(os.getpid(), number)
        await anyio.sleep_forever()
        raise AssertionError

    return Engine(compile=lambda experiment, ports: None, execute=execute)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_resumable_run(home: Path, experiment: Make, number: int) -> None:
    run = created(home, experiment())
    with pytest.raises(InterruptedRun, match=f"go on with `crucible resume {run.run_id}`") as caught:
        RunExecutor(Home(home), environ={}, engine=signalled(number)).start(run)
    assert caught.value.exit_code == 130
    assert run.record().state is RunState.INTERRUPTED
    assert executor(home).resume(run).state is RunState.COMPLETED


def test_ctrl_c_while_the_plan_is_checked_leaves_a_resumable_run(home: Path, experiment: Make) -> None:
    def compile(*_: Any) -> Any:
        raise KeyboardInterrupt

    run = created(home, experiment())
    with pytest.raises(InterruptedRun):
        RunExecutor(Home(home), environ={}, engine=Engine(compile=compile, execute=never)).start(run)
    assert kinds(run) == ["run.created", "run.started", "run.interrupted"]


def test_runs_are_executed_in_other_threads_too(home: Path, experiment: Make) -> None:
    run = created(home, experiment())
    thread = threading.Thread(target=lambda: executor(home).start(run))
    thread.start()
    thread.join()
    assert run.record().state is RunState.COMPLETED


# --- a full disk -------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_leaves_everything_before_intact(home: Path, experiment: Make) -> None:
    written = 0

    def limited(fd: int, data: bytes) -> int:
        nonlocal written
        if written + len(data) > 3_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += len(data)
        return os.write(fd, data)

    run = created(home, experiment(turns=50), RunSettings(log=LogSettings(write=limited)))
    with pytest.raises(StorageError) as caught:
        executor(home).start(run)
    assert caught.value.exit_code == ExitCode.STORAGE
    assert "could not be written down" in caught.value.__notes__[0]
    after = RunStore(Home(home)).open(run.run_id)
    assert after.record().state is RunState.INTERRUPTED
    assert [event.seq for event in after.events()] == list(range(1, len(after.events()) + 1))
    assert executor(home).resume(after).state is RunState.COMPLETED
    assert steps(after) == list(range(1, 51))


# --- decisions ---------------------------------------------------------------------------------------------


def waiting(home: Path, experiment: Make) -> RunFolder:
    run = created(home, experiment(ask_at=3))
    record = executor(home).start(run)
    assert record.state is RunState.WAITING_APPROVAL
    assert record.waiting_for is not None
    assert record.waiting_for["question"] == "Go on?"
    return run


def decision(run: RunFolder, approved: bool = True, **changes: Any) -> ApprovalDecision:
    asked = run.record().waiting_for or {}
    fields = {"request_digest": asked["digest"], "approved": approved, "actor": "ann", **changes}
    return ApprovalDecision(**fields)


def test_a_run_waits_without_a_process_and_goes_on_after_the_decision(home: Path, experiment: Make) -> None:
    run = waiting(home, experiment)
    assert run.owner() is None
    with pytest.raises(ConflictError, match="waits for a decision"):
        executor(home).resume(run)
    requests.decide(run, decision(run))
    assert executor(home).resume(run).state is RunState.COMPLETED
    assert steps(run) == [1, 2, 3, 4]


def test_a_no_is_given_to_the_stage_that_asked(home: Path, experiment: Make) -> None:
    run = waiting(home, experiment)
    requests.decide(run, decision(run, approved=False))
    with pytest.raises(TrainError, match="was not approved"):
        executor(home).resume(run)


def test_only_the_first_decision_on_exactly_what_was_asked_counts(home: Path, experiment: Make) -> None:
    run = waiting(home, experiment)
    other = "sha256:" + "0" * 64
    with pytest.raises(ConflictError, match=f"answers {other}, but"):
        requests.decide(run, decision(run, request_digest=other))
    requests.decide(run, decision(run))
    with pytest.raises(ConflictError, match="ann has decided already \\(yes\\)"):
        requests.decide(run, decision(run, approved=False, actor="bob"))


def test_a_run_that_asks_nothing_takes_no_decision(home: Path, experiment: Make) -> None:
    run = created(home, experiment())
    with pytest.raises(ConflictError, match="is created and waits for no decision"):
        requests.decide(run, decision_of("sha256:" + "1" * 64))


def decision_of(digest: str) -> ApprovalDecision:
    return ApprovalDecision(request_digest=digest, approved=True, actor="ann")


# --- cancelling what nobody runs ---------------------------------------------------------------------------


def test_a_created_waiting_or_failed_run_is_cancelled_at_once(home: Path, experiment: Make) -> None:
    fresh = created(home, experiment())
    assert requests.cancel(fresh).state is RunState.CANCELLED
    with pytest.raises(ConflictError, match="is cancelled already"):
        requests.cancel(fresh)
    asked = waiting(home, experiment)
    assert requests.cancel(asked, actor="ann").state is RunState.CANCELLED
    assert asked.events()[-1].data == {"actor": "ann"}
    failed = created(home, experiment(fail_at=1))
    with pytest.raises(TrainError):
        executor(home).start(failed)
    assert requests.cancel(failed).state is RunState.CANCELLED


def test_a_run_whose_owner_is_gone_is_cancelled_at_once(home: Path, experiment: Make) -> None:
    run = created(home, experiment())
    run.append("run.started")
    assert requests.cancel(run).state is RunState.CANCELLED
    assert kinds(run) == ["run.created", "run.started", "run.interrupted", "run.cancelled"]


def test_a_request_of_an_earlier_attempt_does_not_stop_the_next(home: Path, experiment: Make) -> None:
    run = created(home, experiment())
    run.append("run.started")
    run.append("run.cancel_requested", {"actor": "ann"})
    assert executor(home).resume(run).state is RunState.COMPLETED


# --- secrets -----------------------------------------------------------------------------------------------


def test_a_planted_secret_is_in_no_file_and_no_error(
    home: Path, experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBE_API_KEY", SECRET)
    crucible = Crucible(home, environ={"PROBE_API_KEY": SECRET})
    with pytest.raises(CrucibleError) as caught:
        crucible.run(experiment(fail_at=2, text="to log"), actor=f"ann {SECRET}")
    assert "broke with [redacted]" in str(caught.value)
    written = [path for path in home.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    record = crucible.status("last")
    assert record.error is not None
    assert "broke with [redacted]" in record.error
    assert any(event.data.get("also") == "[redacted]" for event in crucible.events("last").events)


def test_a_created_run_whose_worker_never_came_is_begun_by_resume(home: Path, experiment: Make) -> None:
    run = created(home, experiment())
    assert executor(home).resume(run).state is RunState.COMPLETED
    assert kinds(run) == ["run.created", "run.started", "run.completed"]


def test_an_owner_that_lost_its_run_writes_nothing_more(home: Path, experiment: Make) -> None:
    run = created(home, experiment())

    async def execute(plan: Any, scope: RunScope) -> Outcome:
        lease = run.path / "lease.lock"
        lease.write_text('{"pid": 7, "host": "far"}')
        import anyio

        while True:
            scope.emit("log", {"message": "still here"})
            await anyio.sleep(0.001)

    beating = LeaseSettings(beat_s=0.001)
    run = RunFolder(run.path, RunSettings(lease=beating))
    engine = Engine(compile=lambda experiment, ports: None, execute=execute)
    with pytest.raises(ConflictError, match="was taken over by process 7 on far") as caught:
        RunExecutor(Home(home), environ={}, engine=engine).start(run)
    assert "could not be written down" in caught.value.__notes__[0]
    assert kinds(run) == ["run.created", "run.started"]
