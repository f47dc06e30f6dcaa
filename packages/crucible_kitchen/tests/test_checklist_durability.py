"""What holds when things happen at the worst moment: between a lock and an event, an event and a folder."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from crucible_ir import (
    CancelledRun,
    CheckpointRef,
    ConflictError,
    Experiment,
    IntegrityError,
    NotFoundError,
    RunState,
    StageDef,
)
from crucible_kitchen.api import Crucible
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.execution import execute
from crucible_kitchen.engine.plan import compile_plan
from crucible_kitchen.engine.scope import Outcome, RunScope
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.manifests.loading import load_manifest
from crucible_kitchen.runs import requests
from crucible_kitchen.runs.attempt import Engine, InterruptedRun
from crucible_kitchen.runs.checkpoints import leftovers, saved_checkpoints
from crucible_kitchen.runs.execution import RunExecutor
from crucible_kitchen.runs.folder import RunFolder
from crucible_kitchen.runs.home import Home
from crucible_kitchen.runs.store import RunStore
from crucible_kitchen.stages.init_session import InitSession
from crucible_kitchen.stages.init_tokenizer import InitTokenizer
from crucible_kitchen.stages.keys import PROVENANCE
from crucible_kitchen.stages.load_dataset import LoadDataset
from crucible_testing.bench import StageBench, toy_experiment
from crucible_testing.engine import Catalog


def created(home: Path, *stages: type[Stage]) -> tuple[RunFolder, RunExecutor]:
    """A run of ``stages`` and what executes it."""
    catalog = Catalog(*stages)
    experiment = Experiment(id="probe", pipeline=tuple(StageDef(name=stage.name) for stage in stages))
    engine = Engine(compile=lambda e, ports: compile_plan(e, ports, catalog), execute=execute)
    run = RunStore(Home(home)).create(experiment, load_manifest("test"))
    return run, RunExecutor(Home(home), environ={}, engine=engine)


class Idle(Stage):
    """Does nothing."""

    name = "idle"

    async def run(self, ctx: StageContext) -> None:
        return


# --- cancelling --------------------------------------------------------------------------------------------


def test_a_request_to_cancel_that_comes_while_the_plan_is_checked_is_heard(home: Path) -> None:
    run, _ = created(home, Idle)

    def compile(*_: Any) -> None:
        requests.cancel(run)  # from another process, which finds the lease taken

    async def run_it(plan: Any, scope: RunScope) -> Outcome:
        if scope.cancel_requested():
            raise CancelledRun(what="cancelled", where=scope.run_id)
        return Outcome()

    with pytest.raises(CancelledRun):
        RunExecutor(Home(home), environ={}, engine=Engine(compile=compile, execute=run_it)).start(run)
    assert run.record().state is RunState.CANCELLED


def test_a_log_that_vanishes_is_told_as_it_is_and_not_as_a_group(home: Path) -> None:
    class Wait(Idle):
        async def run(self, ctx: StageContext) -> None:
            (ctx.run_dir / "events.jsonl").rename(ctx.run_dir / "gone.jsonl")
            await anyio.sleep_forever()

    run, executor = created(home, Wait)
    with pytest.raises(FileNotFoundError):
        executor.start(run)


def test_resources_are_closed_to_their_end_when_a_signal_comes(home: Path) -> None:
    closed: list[str] = []

    class Open(Idle):
        async def run(self, ctx: StageContext) -> None:
            async def close() -> None:
                await anyio.lowlevel.checkpoint()
                closed.append("closed")

            ctx.defer(close)
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep_forever()

    run, executor = created(home, Open)
    with pytest.raises(InterruptedRun):
        executor.start(run)
    assert closed == ["closed"]


# --- checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture
def finished(home: Path, probe: Path, experiment: Callable[..., Experiment]) -> RunFolder:
    """A run of four turns, each with a checkpoint, that failed at the end."""
    run = RunStore(Home(home)).create(experiment(fail_at=4), load_manifest("test"))
    with pytest.raises(Exception, match="broke"):
        RunExecutor(Home(home), environ={}).start(run)
    return run


def test_checkpoints_are_given_up_in_the_log_before_their_folders_go(
    finished: RunFolder, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """The process ends here."""

    def rmtree(path: Path, *_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(shutil, "rmtree", rmtree)
        with pytest.raises(Killed):
            RunExecutor(Home(home), environ={}).resume(finished, "step_000002")
    assert [saved.name for saved in saved_checkpoints(finished.events())] == ["step_000001", "step_000002"]
    (home / "runs" / "released").touch()
    assert RunExecutor(Home(home), environ={}).resume(finished).state is RunState.COMPLETED


def test_the_folder_of_a_voided_checkpoint_is_a_leftover_although_its_name_was_spoken_of(home: Path) -> None:
    run, _ = created(home, Idle)

    def saved(step: int) -> None:
        ref = CheckpointRef(id=f"c{step}", path=f"checkpoints/c{step}", step=step).model_dump(mode="json")
        run.append(
            "checkpoint.saved",
            {"checkpoint": ref, "cursor": [0], "state": {}, "metrics_position": 0, "step": step},
        )
        (run.checkpoints_path / f"c{step}").mkdir(parents=True, exist_ok=True)

    for step in (1, 2, 3):
        saved(step)
    first = saved_checkpoints(run.events())[0]
    run.append("run.resumed", {"checkpoint_seq": first.seq, "step": 1})
    saved(2)
    (run.checkpoints_path / "c3").mkdir(exist_ok=True)  # being written again when the process was killed
    source = saved_checkpoints(run.events())[-1]
    assert source.name == "c2"
    assert [path.name for path in leftovers(run, source)] == ["c3"]


# --- what a run goes on with -------------------------------------------------------------------------------


def resumed(folder: Path, name: str, digest: str) -> StageBench:
    """A bench whose checkpoint was taken with another ``name``."""
    bench = StageBench(folder / "run_1_00000000", toy_experiment(folder))
    bench[PROVENANCE] = {name: {"digest": digest}}
    return bench


def test_a_dataset_that_changed_since_the_checkpoint_is_refused(tmp_path: Path) -> None:
    bench = resumed(tmp_path, "model", "sha256:0")
    bench.run(LoadDataset)
    bench.run(LoadDataset)  # the same rows: fine
    path = tmp_path / "train.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    with pytest.raises(IntegrityError, match="the dataset is not the one this run began with"):
        bench.run(LoadDataset)


@pytest.mark.parametrize(
    ("name", "stage", "options"),
    [
        ("model", InitSession, {}),
        ("tokenizer", InitTokenizer, {"renderer": "role_colon"}),
        ("renderer", InitTokenizer, {"renderer": "role_colon"}),
    ],
)
def test_a_model_tokenizer_or_renderer_that_changed_since_the_checkpoint_is_refused(
    tmp_path: Path, name: str, stage: type[Stage], options: dict[str, str]
) -> None:
    bench = resumed(tmp_path, name, "sha256:0000000000000000")
    with pytest.raises(IntegrityError, match=f"the {name} is not the one this run began with"):
        bench.run(stage, **options)
    bench.close()


# --- processes of their own --------------------------------------------------------------------------------


def test_a_detached_resume_that_cannot_begin_is_refused_here_and_not_in_a_log(
    finished: RunFolder, home: Path
) -> None:
    crucible = Crucible(home)
    with pytest.raises(NotFoundError, match="did you mean 'step_000002'"):
        crucible.resume(finished.run_id, "step_00002", detached=True)
    (home / "runs" / "released").touch()
    crucible.resume(finished.run_id)
    with pytest.raises(ConflictError, match="is completed"):
        crucible.resume(finished.run_id, detached=True)
    assert not (finished.path / "worker.log").exists()


def test_a_worker_looks_for_no_modules_in_the_folder_that_it_works_in(
    home: Path,
    probe: Path,
    experiment: Callable[..., Experiment],
    eventually: Callable[[Callable[[], Any]], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "anyio.py").write_text("raise SystemExit('the wrong anyio')\n")
    monkeypatch.chdir(tmp_path)
    crucible = Crucible(home)
    record = crucible.create(experiment())
    ended = eventually(lambda: crucible.status(record.run_id).ended_at)
    assert ended
    assert crucible.status(record.run_id).state is RunState.COMPLETED
