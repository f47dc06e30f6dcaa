from __future__ import annotations

import io
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ConflictError, ExitCode, Experiment, RunState, StorageError, TrainError
from crucible_ir.redaction import Redactor
from crucible_kitchen.api import Crucible
from crucible_kitchen.runs.folder import RunFolder
from crucible_kitchen.runs.home import Home
from crucible_kitchen.runs.worker import RedactingStream, detach, main

Make = Callable[..., Experiment]
Worker = Callable[..., "subprocess.Popen[bytes]"]
Eventually = Callable[[Callable[[], Any]], Any]
SECRET = "planted-secret-9317"

pytestmark = pytest.mark.usefixtures("probe")


@pytest.fixture
def crucible(home: Path) -> Crucible:
    return Crucible(home)


def held(crucible: Crucible, experiment: Experiment) -> str:
    return crucible.create(experiment, start=False).run_id


def at_step(crucible: Crucible, run_id: str, step: int) -> Callable[[], bool]:
    return lambda: crucible.status(run_id).step >= step


def checkpoints(crucible: Crucible, run_id: str, count: int) -> Callable[[], bool]:
    def saved() -> bool:
        return sum(e.type == "checkpoint.saved" for e in crucible.events(run_id).events) >= count

    return saved


def steps(home: Path, run_id: str) -> list[int]:
    lines = (home / "runs" / run_id / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_a_second_process_on_a_run_is_told_who_owns_it(
    home: Path, crucible: Crucible, worker: Worker, experiment: Make, eventually: Eventually
) -> None:
    run_id = held(crucible, experiment(hold_at=2))
    first = worker(run_id)
    eventually(at_step(crucible, run_id, 2))
    assert crucible.status(run_id).state is RunState.RUNNING
    second = worker(run_id, "--resume")
    output, _ = second.communicate()
    assert second.returncode == ExitCode.CONFLICT
    assert f"{run_id} is owned by process {first.pid} on".encode() in output
    with pytest.raises(ConflictError, match=f"process {first.pid}"):
        crucible.resume(run_id)
    (home / "runs" / "released").touch()
    assert first.wait() == 0
    assert crucible.status(run_id).state is RunState.COMPLETED


@pytest.mark.parametrize("step", [1, 3])
def test_kill_minus_9_is_seen_as_interrupted_and_the_run_goes_on(
    home: Path, crucible: Crucible, worker: Worker, experiment: Make, eventually: Eventually, step: int
) -> None:
    run_id = held(crucible, experiment(hold_at=step))
    process = worker(run_id)
    eventually(checkpoints(crucible, run_id, step))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert crucible.status(run_id).state is RunState.INTERRUPTED
    assert crucible.list(state=RunState.INTERRUPTED).runs[0].run_id == run_id
    assert crucible.resume(run_id).state is RunState.COMPLETED
    assert steps(home, run_id) == [1, 2, 3, 4]
    kinds = [event.type for event in crucible.events(run_id).events]
    assert kinds.index("run.interrupted") + 1 == kinds.index("run.resumed")


def test_a_run_is_cancelled_from_another_process(
    crucible: Crucible, worker: Worker, experiment: Make, eventually: Eventually
) -> None:
    run_id = held(crucible, experiment(hold_at=2))
    process = worker(run_id)
    eventually(at_step(crucible, run_id, 2))
    crucible.cancel(run_id, actor="ann")
    output, _ = process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED, output
    assert crucible.status(run_id).state is RunState.CANCELLED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signalled_process_ends_with_130_and_a_resumable_run(
    home: Path,
    crucible: Crucible,
    worker: Worker,
    experiment: Make,
    eventually: Eventually,
    number: signal.Signals,
) -> None:
    run_id = held(crucible, experiment(hold_at=3))
    process = worker(run_id)
    eventually(checkpoints(crucible, run_id, 3))
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert f"crucible resume {run_id}".encode() in output
    assert crucible.events(run_id).events[-1].type == "run.interrupted"
    (home / "runs" / "released").touch()
    assert crucible.resume(run_id).state is RunState.COMPLETED
    assert steps(home, run_id) == [1, 2, 3, 4]


def test_create_is_detached_idempotent_and_reported(
    home: Path, crucible: Crucible, experiment: Make, eventually: Eventually
) -> None:
    first = crucible.create(experiment(), idempotency_key="k", actor="ann", tags=("t",))
    eventually(lambda: crucible.status(first.run_id).state is RunState.COMPLETED)
    again = crucible.create(experiment(), idempotency_key="k")
    assert again.run_id == first.run_id
    assert crucible.status(first.run_id).tags == ("probe", "t")
    assert (home / "runs" / first.run_id / "worker.log").exists()


def test_a_detached_decision_lets_the_run_go_on(
    crucible: Crucible, experiment: Make, eventually: Eventually
) -> None:
    record = crucible.run(experiment(ask_at=2))
    assert record.waiting_for is not None
    crucible.call(
        "decide",
        {
            "run_id": record.run_id,
            "request_digest": record.waiting_for["digest"],
            "approved": True,
            "resume": True,
        },
    )
    eventually(lambda: crucible.status(record.run_id).state is RunState.COMPLETED)


def test_a_detached_resume_takes_the_named_checkpoint(
    home: Path, crucible: Crucible, experiment: Make, eventually: Eventually
) -> None:
    with pytest.raises(TrainError):
        crucible.run(experiment(fail_at=3))
    run_id = crucible.list().runs[0].run_id
    (home / "runs" / "released").touch()
    crucible.resume(run_id, "step_000001", detached=True)
    eventually(lambda: crucible.status(run_id).state is RunState.COMPLETED)
    resumed = next(e for e in crucible.events(run_id).events if e.type == "run.resumed")
    assert resumed.data["checkpoint"] == "step_000001"


def test_a_secret_reaches_neither_the_workers_output_nor_its_files(
    home: Path, worker: Worker, experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBE_API_KEY", SECRET)
    crucible = Crucible(home)
    run_id = held(crucible, experiment(fail_at=1, text="x"))
    process = worker(run_id)
    output, _ = process.communicate()
    assert process.returncode == TrainError.exit_code
    assert b"broke with [redacted]" in output
    assert SECRET.encode() not in output
    assert not [p for p in home.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def test_a_worker_tells_errors_with_their_exit_codes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run_1_00000000"]) == ExitCode.NOT_FOUND
    assert "there is no run 'run_1_00000000'" in capsys.readouterr().err


def test_a_worker_traces_what_nobody_expected(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBE_API_KEY", SECRET)

    def broken(*_: object, **__: object) -> RunFolder:
        raise RuntimeError(f"odd {SECRET}")

    monkeypatch.setattr("crucible_kitchen.runs.worker.RunStore.open", broken)
    assert main(["run_1_00000000", "--resume"]) == ExitCode.FAILED
    told = capsys.readouterr().err
    assert "RuntimeError: odd [redacted]" in told
    assert SECRET not in told


def test_a_worker_that_cannot_log_is_one_sentence(home: Path, crucible: Crucible, experiment: Make) -> None:
    run_id = held(crucible, experiment())
    run = RunFolder(home / "runs" / run_id)
    (run.path / "worker.log").mkdir()
    with pytest.raises(StorageError, match="the worker cannot be started"):
        detach(run, Home(home), environ={})


def test_a_stream_hides_secrets_that_are_written_in_parts() -> None:
    target = io.StringIO()
    stream = RedactingStream(target, Redactor(secrets=frozenset({SECRET})))
    assert stream.writable()
    stream.write(f"a {SECRET[:5]}")
    stream.write(f"{SECRET[5:]} b\nrest {SECRET}")
    stream.finish()
    assert target.getvalue() == "a [redacted] b\nrest [redacted]"
    with pytest.raises(io.UnsupportedOperation):
        stream.fileno()
