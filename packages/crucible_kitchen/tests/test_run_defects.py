"""Listed defects of runs: events that nothing writes, a last checkpoint that forgets where it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import (
    ApprovalRequest,
    CancelledRun,
    ConflictError,
    EventType,
    Experiment,
    RetryPolicy,
    StageDef,
    TrainError,
)
from crucible_kitchen.api import Crucible
from crucible_testing.bench import plant_bigram, toy_experiment
from crucible_testing.engine import Recorder

Make = Callable[..., Experiment]


def kinds_of(crucible: Crucible) -> set[str]:
    found: set[str] = set()
    for record in crucible.list().runs:
        found |= {event.type for event in crucible.events(record.run_id).events}
    return found


def of_failures(crucible: Crucible, home: Path, experiment: Make) -> None:
    with pytest.raises(TrainError):
        crucible.run(experiment(fail_at=2))
    (home / "runs" / "released").touch()
    crucible.resume(crucible.list(limit=1).runs[0].run_id)
    (home / "runs" / "released").unlink()


def of_questions(crucible: Crucible, experiment: Make) -> None:
    record = crucible.run(experiment(ask_at=2))
    assert record.waiting_for is not None
    digest = ApprovalRequest.model_validate(record.waiting_for).digest
    crucible.decide(record.run_id, digest, approved=True)
    crucible.resume(record.run_id)


def of_interruptions(crucible: Crucible, home: Path, experiment: Make) -> None:
    def stop(what: str, data: Any) -> None:
        if what == "checkpoint.saved":
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="was interrupted"):
        Crucible(home, listeners=(stop,)).run(experiment())
    crucible.cancel(crucible.list(limit=1).runs[0].run_id)


def of_requests_to_cancel(home: Path, experiment: Make) -> None:
    def ask(what: str, data: Any) -> None:
        if what == "checkpoint.saved" and data["step"] == 1:
            other = Crucible(home)
            other.cancel(other.list(limit=1).runs[0].run_id)

    with pytest.raises(CancelledRun):
        Crucible(home, listeners=(ask,)).run(experiment())


def of_retries_and_rollbacks() -> set[str]:
    found: set[str] = set()
    retried = StageDef(
        name="fail", options={"after": 99, "retryable": True}, retry=RetryPolicy(attempts=2, wait_s=0)
    )
    recorder = Recorder(Experiment(id="t", pipeline=(StageDef(name="begin"), StageDef(name="undo"), retried)))
    with pytest.raises(Exception, match="try later"):
        recorder.run()
    found |= set(recorder.kinds())
    return found


def test_every_declared_event_is_written_by_some_run(
    home: Path, probe: Path, experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site_of_bigram")))
    crucible = Crucible(home)
    for faults in (None, {"nan_at": 0}):
        crucible.run(toy_experiment(tmp_path / "toy", faults=faults))
    of_failures(crucible, home, experiment)
    of_questions(crucible, experiment)
    of_interruptions(crucible, home, experiment)
    of_requests_to_cancel(home, experiment)
    written = kinds_of(crucible) | of_retries_and_rollbacks()
    assert {str(kind) for kind in EventType} - written == set()


def test_the_last_checkpoint_says_where_training_stands_and_is_not_gone_on_from_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    crucible = Crucible(tmp_path / "home")
    record = crucible.run(toy_experiment(tmp_path, epochs=2, max_steps=6))
    saved = [e.data for e in crucible.events(record.run_id).events if e.type == "checkpoint.saved"]
    assert (saved[-1]["step"], saved[-1]["state"]["step"]) == (6, 6)
    with pytest.raises(ConflictError, match="is completed"):
        crucible.resume(record.run_id)
