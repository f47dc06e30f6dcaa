"""A planted secret stays out of what a person sees when something breaks in a way nobody foresaw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crucible_ir import BackendRef, CrucibleError, ExitCode, Experiment, StageDef
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.main import main

SECRET = "planted-secret-2471"

_STAGES = """
import os
from crucible_ir import Experiment, StageDef, TrainError
from crucible_kitchen.engine.stage import Stage

class Foreign(Stage):
    '''Raise what no part of Crucible raises.'''
    name = "leak_foreign"
    async def run(self, ctx):
        raise ValueError("GET https://x?token=" + os.environ["LEAK_API_KEY"])

class Ours(Stage):
    '''Raise one of ours.'''
    name = "leak_ours"
    async def run(self, ctx):
        raise TrainError(what="asked " + os.environ["LEAK_PLACE"], where=ctx.label)

class Sink:
    '''A metrics store that takes a setting from the environment.'''
    def __init__(self, *, place=""): ...
    def log(self, run_id, row): ...
    def flush(self): ...
    def read(self, run_id, after_step=None): return []
    def position(self, run_id): return 0
    def truncate(self, run_id, position): ...
    def close(self): ...
"""
_ENTRIES = """
[crucible.stages]
leak_foreign = leak_probe:Foreign
leak_ours = leak_probe:Ours
[crucible.metrics_store]
leak_sink = leak_probe:Sink
"""


@pytest.fixture
def leaks(package: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEAK_API_KEY", SECRET)
    monkeypatch.setenv("LEAK_PLACE", SECRET)
    return package("leak-probe", {"leak_probe.py": _STAGES}, _ENTRIES)


def one(stage: str, backend: BackendRef | None = None) -> Experiment:
    return Experiment(id="leak", pipeline=(StageDef(name=stage),), backend=backend or BackendRef())


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_the_trace_of_an_error_nobody_foresaw_holds_no_secret(
    leaks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    path = tmp_path / "leak.json"
    path.write_text(one("leak_foreign").model_dump_json())
    assert main(["run", str(path), "--manifest", "test", *words]) == ExitCode.FAILED
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    assert "ValueError: GET https://x?token=[redacted]" in err
    assert ("Traceback" in err) == (not words)
    if words:
        assert json.loads(err)["error"]["exit_code"] == ExitCode.FAILED


def test_what_a_manifest_takes_from_the_environment_is_in_no_error_whatever_its_name(
    leaks: Path, tmp_path: Path, home: Path
) -> None:
    manifest = tmp_path / "mine.toml"
    manifest.write_text(
        'profile = "mine"\n[ports.metrics_store]\nadapter = "leak_sink"\noptions = { place = { env = "LEAK_PLACE" } }\n'
    )
    crucible = Crucible(home, environ={"LEAK_PLACE": SECRET})
    with pytest.raises(CrucibleError) as caught:
        crucible.run(one("leak_ours", BackendRef(manifest=str(manifest))))
    assert "asked [redacted]" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert not [p for p in home.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
