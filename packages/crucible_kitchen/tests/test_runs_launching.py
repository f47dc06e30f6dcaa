"""Runs through a launcher: watched, failed, stopped, resumed, refused; with real processes and without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import BackendRef, ConfigError, Experiment, ProcessLost, RunState, ServiceError, TrainError
from crucible_kitchen.api import Crucible
from crucible_kitchen.engine.scope import Outcome
from crucible_kitchen.remarks import remarks
from crucible_kitchen.runs.attempt import Engine, InterruptedRun
from crucible_kitchen.runs.launching import launch_again

Make = Callable[..., Experiment]
Eventually = Callable[[Callable[[], Any]], Any]

pytestmark = pytest.mark.usefixtures("probe")


def kinds(crucible: Crucible, run_id: str) -> list[str]:
    return [event.type for event in crucible.events(run_id).events]


def test_a_run_through_a_launcher_is_watched_to_its_end(home: Path, experiment: Make) -> None:
    heard: list[tuple[str, Mapping[str, Any]]] = []
    crucible = Crucible(home, listeners=(lambda what, data: heard.append((what, data)),))
    record = crucible.run(experiment(), launcher="local")
    assert record.state is RunState.COMPLETED
    told = [event for event in crucible.events(record.run_id).events if event.type != "run.created"]
    assert [what for what, _ in heard if what != "metrics"] == [event.type for event in told]
    assert [data["step"] for what, data in heard if what == "metrics"] == [1, 2, 3, 4]
    (launched,) = [event.data for event in told if event.type == "run.launched"]
    assert (launched["launcher"], launched["processes"]) == ("local", 1)
    assert (home / "jobs" / launched["job"] / "ended.json").is_file()


def test_a_run_that_fails_there_raises_here_what_it_failed_with_and_goes_on(
    home: Path, experiment: Make
) -> None:
    crucible = Crucible(home)
    with pytest.raises(TrainError, match="broke with"):
        crucible.run(experiment(fail_at=2), launcher="local")
    run_id = crucible.list().runs[0].run_id
    (home / "runs" / "released").touch()
    assert crucible.resume(run_id).state is RunState.COMPLETED
    assert "run.resumed" in kinds(crucible, run_id)


def test_ctrl_c_at_the_one_who_watches_stops_the_job_and_leaves_a_resumable_run(
    home: Path, experiment: Make, tmp_path: Path, eventually: Eventually
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(experiment(hold_at=2).model_dump_json())
    command = [sys.executable, "-m", "crucible_kitchen", "run", str(plan), "--launcher", "local", "--json"]
    watching = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.PIPE)
    crucible = Crucible(home)
    eventually(lambda: [r for r in crucible.list().runs if r.step >= 2])
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=60)
    assert watching.returncode == 130, said
    run_id = crucible.list().runs[0].run_id
    assert crucible.status(run_id).state is RunState.INTERRUPTED
    assert kinds(crucible, run_id)[-1] == "run.interrupted"


def test_a_job_that_never_begins_is_an_error_with_what_it_said(home: Path, experiment: Make) -> None:
    broken = {**os.environ, "PYTHONPATH": ""}  # the run's own stages are not found there
    with pytest.raises((ServiceError, ConfigError), match="probe_begin"):
        Crucible(home, environ=broken).run(experiment(), launcher="local")


def test_a_detached_run_through_the_manifests_launcher_ends_by_itself(
    home: Path, experiment: Make, eventually: Eventually
) -> None:
    crucible = Crucible(home)
    chosen = experiment().model_copy(update={"backend": BackendRef(adapters={"launcher": "local"})})
    record = crucible.create(chosen)
    eventually(lambda: crucible.status(record.run_id).state is RunState.COMPLETED)
    run = crucible.service.store.open(record.run_id)
    assert launch_again(run, None, None) is None  # one process here needs no launcher to go on
    assert launch_again(run, None, 2) is not None


def test_several_processes_need_a_backend_that_has_them(home: Path, experiment: Make) -> None:
    crucible = Crucible(home, environ={**os.environ, "TINKER_API_KEY": "tml-no-key-of-anybody"})
    tinker = experiment().model_copy(update={"backend": BackendRef(manifest="tinker")})
    with pytest.raises(ConfigError, match="processes = 2, but the backend"):
        crucible.run(tinker, processes=2)
    assert crucible.list().runs == ()


def test_callers_from_outside_choose_no_launcher(home: Path) -> None:
    outside = Crucible(home, trusted=False)
    for asked in ({"launcher": "local"}, {"processes": 64}):
        with pytest.raises(ConfigError, match="launcher"):
            outside.run("probe_tune", config={}, **asked)


def test_a_lost_process_interrupts_the_run(home: Path, experiment: Make) -> None:
    async def lost(plan: Any, scope: Any) -> Outcome:
        raise ProcessLost(what="process 1 is gone", where="engine")

    crucible = Crucible(home, engine=Engine(compile=lambda experiment, ports: None, execute=lost))
    with pytest.raises(ProcessLost):
        crucible.run(experiment())
    (record,) = crucible.list().runs
    assert record.state is RunState.INTERRUPTED
    last = crucible.events(record.run_id).events[-1]
    assert (last.type, last.data["reason"]) == ("run.interrupted", "engine: process 1 is gone")
    assert InterruptedRun.exit_code == ProcessLost.exit_code == 130


def test_going_on_in_another_number_of_processes_is_remarked() -> None:
    (said,) = remarks("run.resumed", {"processes": 1, "processes_before": 2})
    assert "in 1 instead of 2 processes" in said
    assert remarks("run.resumed", {"processes": 2, "processes_before": 2}) == []
