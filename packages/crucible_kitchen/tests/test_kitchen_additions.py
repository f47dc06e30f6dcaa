"""A wheel from outside this workspace adds a verb, a recipe, a workflow and a stage."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import AdapterError, ExitCode, StageDef
from crucible_kitchen import catalog
from crucible_kitchen.cli.main import main
from crucible_kitchen.workflows.supervised import SupervisedOptions

ADDITIONS = '''
"""Bells."""
import sys
from crucible_ir import Contract, Experiment, LoopDef, StageDef
from crucible_kitchen.catalog import workflow
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.recipes import Recipe

RINGS = Key("rings")


class Hang(Stage):
    """Hang the bell."""

    name = "hang_bell"
    writes = (RINGS,)
    setup = True

    class Options(Contract):
        rings: int = 2

    options_model = Options

    async def run(self, ctx):
        ctx.set(RINGS, self.options.rings)


class Ring(Stage):
    """Ring the bell once."""

    name = "ring_bell"

    async def run(self, ctx):
        with (ctx.run_dir / "bell.txt").open("a") as file:
            file.write("ding\\n")


def peal(rings):
    """Ring so many times."""
    return (
        StageDef(name="hang_bell", options={"rings": rings}),
        LoopDef(name="ring", over="rings", body=(StageDef(name="ring_bell"),)),
    )


class CallConfig(Contract):
    rings: int = 3


class Call(Recipe[CallConfig]):
    """Call everybody."""

    name = "call"
    config_model = CallConfig

    def experiment(self, config):
        return Experiment(id="call", recipe="call", workflow="peal", pipeline=workflow("peal")(config.rings))


def chime(note: str = "c") -> int:
    """Play one note."""
    sys.stdout.write(f"{note}!\\n")
    return 0
'''

ENTRY_POINTS = """
[crucible.stages]
hang_bell = bell_tower:Hang
ring_bell = bell_tower:Ring
[crucible.workflows]
peal = bell_tower:peal
[crucible.recipes]
call = bell_tower:Call
[crucible.commands]
chime = bell_tower:chime
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """``bell_tower-2.1-py3-none-any.whl``."""
    path, info = tmp_path / "bell_tower-2.1-py3-none-any.whl", "bell_tower-2.1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bell_tower.py", ADDITIONS)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: bell-tower\nVersion: 2.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", ENTRY_POINTS)
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def command(wheel: Path, home: Path) -> Callable[..., str]:
    """The command in a process of its own that sees the wheel; gives standard output."""

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "crucible_kitchen", *words],
            env={**os.environ, "PYTHONPATH": str(wheel)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_wheel_adds_a_verb(command: Callable[..., str]) -> None:
    assert re.search(r"^  chime +Play one note\.$", command("--help"), re.MULTILINE)
    assert command("chime", "--note", "g") == "g!\n"


def test_a_wheel_adds_a_recipe_over_its_own_workflow_and_stages(
    command: Callable[..., str], home: Path
) -> None:
    record: dict[str, Any] = json.loads(command("run", "call", "rings=4", "--json"))
    assert (record["state"], record["recipe"], record["workflow"]) == ("completed", "call", "peal")
    assert (home / "runs" / record["run_id"] / "bell.txt").read_text() == "ding\n" * 4
    listed = command("stages")
    assert "ring_bell" in listed
    assert "bell-tower 2.1" in listed


def test_without_the_wheel_there_is_none_of_it(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["chime"]) == ExitCode.USAGE
    assert main(["run", "call"]) == ExitCode.ADAPTER
    assert "no installed package adds 'call'" in capsys.readouterr().err
    with pytest.raises(AdapterError, match="peal"):
        catalog.workflow("peal")


def test_workflows_and_recipes_are_found_by_name(
    package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = catalog.workflow("supervised")(SupervisedOptions())
    assert nodes[0] == StageDef(name="load_dataset")
    monkeypatch.delitem(sys.modules, "bell_tower", raising=False)
    package("bell-tower", {"bell_tower.py": ADDITIONS}, ENTRY_POINTS)
    assert catalog.recipe("call").parse({"rings": 1}).workflow == "peal"


def test_a_recipe_that_is_none_is_refused(
    package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "bell_tower", raising=False)
    package("bell-tower", {"bell_tower.py": ADDITIONS}, "[crucible.recipes]\nbad = bell_tower:peal\n")
    with pytest.raises(AdapterError, match="'bad' of bell-tower is no subclass of Recipe"):
        catalog.recipe("bad")
