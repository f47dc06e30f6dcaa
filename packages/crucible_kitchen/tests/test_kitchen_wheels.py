"""A wheel that knows nothing of this workspace, put on the path as it is, adds to Crucible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import Experiment
from crucible_kitchen.api import Crucible

STORE = '''
"""Metrics on a long roll of paper."""
import json
from pathlib import Path
from crucible_ir import MetricRow


class PaperStore:
    """Keeps metrics on a long roll of paper."""

    def __init__(self, *, root: Path, colour: str = "white") -> None:
        self.root, self.colour = Path(root), colour

    def _path(self, run_id):
        return self.root / run_id / "paper.txt"

    def _lines(self, run_id):
        path = self._path(run_id)
        return path.read_text().splitlines() if path.exists() else []

    def log(self, run_id, row):
        with self._path(run_id).open("a") as roll:
            roll.write(f"{row.model_dump_json()}\\n")

    def flush(self): ...

    def read(self, run_id, after_step=None):
        return [MetricRow.model_validate_json(line) for line in self._lines(run_id)]

    def position(self, run_id):
        return len(self._lines(run_id))

    def truncate(self, run_id, position):
        kept = self._lines(run_id)[:position]
        self._path(run_id).write_text("".join(f"{line}\\n" for line in kept))

    def close(self): ...
'''


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """``paper_metrics-0.3-py3-none-any.whl`` with one MetricsStore."""
    path = tmp_path / "paper_metrics-0.3-py3-none-any.whl"
    info = "paper_metrics-0.3.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("paper_metrics/__init__.py", "")
        archive.writestr("paper_metrics/store.py", STORE)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: paper-metrics\nVersion: 0.3\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(
            f"{info}/entry_points.txt", "[crucible.metrics_store]\npaper = paper_metrics.store:PaperStore\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def python(script: str, *paths: Path, **environ: str) -> str:
    path = os.pathsep.join(map(str, paths))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": path, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_adds_a_metrics_store_that_a_run_uses(
    wheel: Path, probe: Path, home: Path, experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    spec = tmp_path / "experiment.json"
    chosen = {"adapters": {"metrics_store": "paper"}, "options": {"metrics_store": {"colour": "blue"}}}
    spec.write_text(json.dumps({**experiment().model_dump(mode="json"), "backend": chosen}))
    told = python(
        f"""
        import json
        from pathlib import Path
        from crucible_ir import Experiment
        from crucible_kitchen.api import Crucible
        crucible = Crucible()
        item = next(i for i in crucible.adapters("metrics_store", check=True).adapters if i.name == "paper")
        record = crucible.run(Experiment.parse(Path({str(spec)!r}).read_text()))
        rows = [row.step for row in crucible.metrics(record.run_id).rows]
        print(json.dumps([item.model_dump(), record.state, rows, record.run_id]))
        """,
        wheel,
        probe,
        CRUCIBLE_HOME=str(home),
    )
    item, state, rows, run_id = json.loads(told)
    assert item == {
        "port": "metrics_store",
        "name": "paper",
        "summary": "Keeps metrics on a long roll of paper.",
        "package": "paper-metrics",
        "version": "0.3",
        "problem": None,
    }
    assert (state, rows) == ("completed", [1, 2, 3, 4])
    assert (home / "runs" / run_id / "paper.txt").exists()


def test_without_the_wheel_the_adapter_is_unknown(
    probe: Path, home: Path, experiment: Callable[..., Any]
) -> None:
    backend = {"adapters": {"metrics_store": "paper"}}
    spec = {**experiment().model_dump(mode="json"), "backend": backend}
    with pytest.raises(Exception, match="crucible.metrics_store: no installed package adds 'paper'"):
        Crucible(home).call("plan", {"experiment": spec})
