"""The embedded default: real training, a measured gain, and none where nothing is learned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from crucible_cookbook.quickstart import experiment
from crucible_kitchen.api import Crucible
from crucible_kitchen.reports.facts import held_out_gain

pytestmark = pytest.mark.slow


def test_the_quickstart_shows_a_gain_whose_interval_lies_above_zero(crucible: Any) -> None:
    body = crucible.json("quickstart")
    gain = body["gain"]
    assert gain["examples"] >= 200
    assert gain["low"] > 0
    assert gain["after"] < gain["before"]
    assert Path(body["report"]).is_file()
    assert body["run"]["state"] == "completed"
    if "PROOF_FIGURES" in os.environ:
        Path(os.environ["PROOF_FIGURES"]).write_text(json.dumps(gain))


def test_a_learning_rate_of_zero_shows_no_gain(tmp_path: Path) -> None:
    made = experiment(learning_rate=0.0, max_steps=3, sample_prompts=0)
    record = Crucible(tmp_path).run(made)
    gain = held_out_gain(tmp_path / "runs" / record.run_id)
    assert gain is not None
    assert gain.difference.n >= 200
    assert gain.difference.interval.low <= 0 <= gain.difference.interval.high
    assert gain.before == gain.after
