"""A package that is installed nowhere, with stages that a test can hold, break and kill."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import Experiment, LoopDef, StageDef

PROBE = '''
"""Stages that a test can hold, break and kill."""
import hashlib, json, os
import anyio
from crucible_ir import CheckpointRef, Contract, Experiment, LoopDef, MetricRow, StageDef, TrainError, digest_of
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.recipes import Recipe

TURNS = Key("turns")
TOTAL = Key("total", durable=True)

class Begin(Stage):
    """Say how many turns there are."""
    name = "probe_begin"
    writes = (TURNS, TOTAL)
    setup = True
    class Options(Contract):
        turns: int = 4
    options_model = Options
    async def run(self, ctx):
        ctx.set(TURNS, self.options.turns)
        if ctx.resume is None:
            ctx.set(TOTAL, 0)

class Turn(Stage):
    """Add one, log it, save a checkpoint; then whatever the options ask for."""
    name = "probe_turn"
    reads = (TOTAL,)
    writes = (TOTAL,)
    ports = ("metrics_store",)
    commits = True
    class Options(Contract):
        hold_at: int = 0
        fail_at: int = 0
        save: bool = True
        text: str = ""
        ask_at: int = 0
    options_model = Options
    async def run(self, ctx):
        step = ctx.get(TOTAL) + 1
        store = ctx.port("metrics_store")
        if step == self.options.ask_at:
            decision = ctx.approval("Go on?", {"step": step})
            if not decision.approved:
                raise TrainError(what="was not approved", where=ctx.label)
        store.log(ctx.run_id, MetricRow(step=step, metrics={"probe/total": float(step)}))
        ctx.set(TOTAL, step)
        ctx.emit("run.progress", {"step": step, "total_steps": 4, "metrics": {"probe/total": float(step)}})
        if self.options.save:
            store.flush()
            ctx.commit_checkpoint(save(ctx.run_dir, step), step=step,
                                  metrics_position=store.position(ctx.run_id))
        if self.options.text:
            ctx.emit("log", {"message": self.options.text, "also": os.environ.get("PROBE_API_KEY", "")})
        flag = ctx.run_dir.parent / "released"
        if step == self.options.fail_at and not flag.exists():
            raise TrainError(what=f"broke with {os.environ.get('PROBE_API_KEY', 'no key')}", where=ctx.label)
        if step == self.options.hold_at:
            while not flag.exists():
                await anyio.sleep(0.01)

class TuneConfig(Contract):
    turns: int = 2
    model: str = "some/model"
    data: dict[str, str] = {}

class Tune(Recipe[TuneConfig]):
    """Take a few turns."""
    name = "probe_tune"
    config_model = TuneConfig
    def experiment(self, config):
        body = (StageDef(name="probe_turn"),)
        begin = StageDef(name="probe_begin", options={"turns": config.turns})
        return Experiment(id="tune", recipe=self.name, pipeline=(begin, LoopDef(name="turn", over="turns", body=body)))

def save(run_dir, step):
    folder = run_dir / "checkpoints" / f"step_{step:06d}"
    folder.mkdir(parents=True)
    data = json.dumps({"total": step}).encode()
    (folder / "weights.json").write_bytes(data)
    files = {"weights.json": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}}
    digest = digest_of(files)
    (folder / "manifest.json").write_text(json.dumps({"files": files, "digest": digest}))
    return CheckpointRef(id=folder.name, digest=digest, path=str(folder), step=step)
'''

ENTRY_POINTS = """
[crucible.stages]
probe_begin = crucible_probe:Begin
probe_turn = crucible_probe:Turn
[crucible.recipes]
probe_tune = crucible_probe:Tune
"""


def write_package(folder: Path, name: str, files: Mapping[str, str], entry_points: str) -> Path:
    """Lay out a package as an installer would: modules and their metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(textwrap.dedent(text))
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a package importable in this process: ``package(name, files, entry_points)``."""

    def add(name: str, files: Mapping[str, str], entry_points: str) -> Path:
        folder = write_package(tmp_path / "site" / name, name, files, entry_points)
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        return folder

    return add


@pytest.fixture
def probe(package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The probe stages, for this process and for those it starts."""
    folder = package("crucible-probe", {"crucible_probe.py": PROBE}, ENTRY_POINTS)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.delitem(sys.modules, "crucible_probe", raising=False)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home folder that CRUCIBLE_HOME names."""
    path = tmp_path / "home"
    monkeypatch.setenv("CRUCIBLE_HOME", str(path))
    return path


def probe_experiment(turns: int = 4, **options: Any) -> Experiment:
    """``turns`` turns of the probe stage."""
    return Experiment(
        id="probe",
        tags=("probe",),
        pipeline=(
            StageDef(name="probe_begin", options={"turns": turns}),
            LoopDef(name="turn", over="turns", body=(StageDef(name="probe_turn", options=options),)),
        ),
    )


@pytest.fixture
def experiment() -> Callable[..., Experiment]:
    """Makes probe experiments: ``experiment(turns=4, hold_at=2)``."""
    return probe_experiment


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Waits for another process: ``eventually(check)`` gives the first true value within 60 s."""

    def wait(check: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            value = check()
            if value:
                return value
            time.sleep(0.02)
        raise AssertionError("it did not happen within 60 s")

    return wait


@pytest.fixture
def worker(home: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts worker processes for runs and ends those that are left."""
    started: list[subprocess.Popen[bytes]] = []

    def start(run_id: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "crucible_kitchen.runs.worker", run_id, *arguments],
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
