"""chat_sl on hub datasets and a hub model, through the real clients against the local stand-in.

The rows are generated fixtures with the columns of NoRobots and Tulu3, not the datasets themselves.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import crucible_tiny
from crucible_testing.hub import LocalHub
from crucible_testing.hub_fixtures import no_robots_files, tulu3_files

pytestmark = pytest.mark.slow

MODEL = "crucible/tiny-model"


def model_files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in crucible_tiny.model_path().iterdir() if path.is_file()}


def run(hub: LocalHub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "crucible_kitchen", "run", "chat_sl", "-m", "dev", "-q", *words],
        capture_output=True,
        text=True,
        check=False,
        env=kept
        | {
            "CRUCIBLE_HOME": str(home),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home / "hf"),
            "OMP_NUM_THREADS": "1",
        },
    )


@pytest.mark.parametrize(
    ("dataset", "repository"),
    [("no_robots", "HuggingFaceH4/no_robots"), ("tulu3", "allenai/tulu-3-sft-mixture")],
)
def test_chat_sl_trains_a_hub_model_on_a_hub_dataset(crucible: Any, dataset: str, repository: str) -> None:
    with LocalHub() as hub:
        hub.add(repository, no_robots_files() if dataset == "no_robots" else tulu3_files(count=1080))
        hub.add(MODEL, model_files(), repo_type="model")
        done = run(
            hub, crucible.home, f"model={MODEL}", "renderer=qwen3_instruct", f"dataset={dataset}",
            "limit=24", "eval_limit=8", "batch_size=8", "max_length=256", "max_steps=2", "sample_prompts=0",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = crucible.json("show", "last")["run"]
    assert shown["step"] == 2
    assert "test/nll" in shown["metrics"]
    (run_dir,) = crucible.run_dirs()
    log = (run_dir / "events.jsonl").read_text()
    assert repository in log
    assert MODEL in log
