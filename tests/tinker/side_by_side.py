"""Runs upstream's recipe and ours as their users do, in a process each, against one server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Metrics", "Place", "run_ours", "run_theirs"]

Metrics = dict[int, dict[str, float]]
"""Metrics by step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where both sides run: the server's and the hub's addresses and a folder."""

    server: str
    hub: str
    folder: Path

    def environment(self) -> dict[str, str]:
        """Variables of a process of either side; what is cached is cached in ``folder``."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return kept | {
            "TINKER_BASE_URL": self.server,
            "TINKER_API_KEY": "tml-local-tests",
            "TINKER_TELEMETRY": "0",
            "HF_ENDPOINT": self.hub,
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }


def run_theirs(module: str, words: list[str], place: Place) -> Metrics:
    """Run upstream's module as its users do; returns the metrics that it wrote."""
    log = place.folder / "theirs"
    _run([sys.executable, "-m", module, f"log_path={log}", *words], place)
    rows = [json.loads(line) for line in (log / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found: Metrics = {}
    for row in rows:
        found.setdefault(int(row.pop("step", len(found))), {}).update(_numbers(row))
    return found


def run_ours(recipe: str, words: list[str], place: Place) -> Metrics:
    """Run our recipe as its users do; returns the metrics that it wrote."""
    home, manifest = place.folder / "home", place.folder / "service.toml"
    manifest.write_text(
        'profile = "service"\nextends = "tinker"\n'
        '[ports.training_backend]\nadapter = "tinker"\n'
        f'[ports.training_backend.options]\nbase_url = "{place.server}"\napi_key = {{ env = "TINKER_API_KEY" }}\n',
        encoding="utf-8",
    )
    where = ["-m", str(manifest), "--home", str(home), "-q"]
    _run([sys.executable, "-m", "crucible_kitchen", "run", recipe, *words, *where], place)
    (path,) = home.glob("runs/run_*/metrics.jsonl")
    found: Metrics = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(int(row["step"]), {}).update(_numbers(row["metrics"]))
    return found


def _run(command: list[str], place: Place) -> None:
    done = subprocess.run(
        command, cwd=place.folder, env=place.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command[2:])}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
