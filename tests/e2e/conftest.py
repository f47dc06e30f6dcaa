"""What the end-to-end tests share: a home of their own and the command as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.cli.main import main

SMALL = (
    "model=tiny",
    "data.path=tiny",
    "data.limit=96",
    "data.eval_limit=16",
    "batch_size=8",
    "max_length=64",
    "learning_rate=2e-3",
    "dtype=float32",
    "sample_prompts=0",
)
"""A run of 12 steps over the bundled model."""


@dataclass
class Command:
    """The ``crucible`` command over one home, in this process or in one of its own."""

    home: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """Run in this process; exit code, standard output, standard error."""
        self.capsys.readouterr()
        code = main(words)
        out, err = self.capsys.readouterr()
        return code, out, err

    def json(self, *words: str) -> Any:
        """Run with --json and parse what it printed; the exit code must be 0."""
        code, out, err = self(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    def start(
        self, *words: str, largest_file: int | None = None, path: Path | None = None
    ) -> subprocess.Popen[str]:
        """Run in a process of its own and do not wait; no file grows beyond ``largest_file`` bytes,
        and modules are looked for in ``path`` first."""
        limit = [] if largest_file is None else ["prlimit", f"--fsize={largest_file}"]
        return subprocess.Popen(
            [*limit, sys.executable, "-m", "crucible_kitchen", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"CRUCIBLE_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
            | ({} if path is None else {"PYTHONPATH": str(path)}),
        )

    def run_dirs(self) -> list[Path]:
        """Folders of the home's runs, oldest first."""
        return sorted((self.home / "runs").glob("run_*"), key=lambda path: path.stat().st_ctime_ns)


@pytest.fixture
def crucible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command over an empty home."""
    home = tmp_path / "home"
    monkeypatch.setenv("CRUCIBLE_HOME", str(home))
    return Command(home, capsys)


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """Metrics of a run, times left out."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("time_s", None)
    return rows


def weights_of(run_dir: Path) -> str:
    """Digests of the final weights' files."""
    return (run_dir / "checkpoints" / "final" / "manifest.json").read_text()


Rows = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture
def rows() -> Rows:
    return rows_of


@pytest.fixture
def weights() -> Callable[[Path], str]:
    return weights_of


@pytest.fixture
def small() -> tuple[str, ...]:
    return SMALL
