"""Upstream's unmodified recipes beside ours on one engine: the same batches, losses and metrics at every step.

``CRUCIBLE_RECIPE_STEPS`` (`make prove` sets it) runs all flows for so many optimiser steps; without it two flows are
run for a few.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

STEPS = int(os.environ.get("CRUCIBLE_RECIPE_STEPS", "0"))
ALL = (
    *("sl_basic", "chat_sl", "dpo", "math_rl, importance_sampling", "math_rl, ppo", "math_rl, cispo"),
    *(
        "distillation on policy",
        "distillation off policy, reasoning",
        "distillation off policy, soft targets",
    ),
)
QUICK = ("dpo", "math_rl, ppo")
FEW = 4

pytestmark = [
    pytest.mark.sdk("tinker_cookbook"),
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A hub, and a server over an engine that keeps what it trains on; figures are written at the end."""
    from bench_of_recipes import opened

    with opened(tmp_path_factory.mktemp("recipes"), steps=STEPS or FEW) as bench:
        yield bench
        if STEPS and (path := os.environ.get("PROOF_FIGURES")):
            upstream = {
                name: version(name) for name in ("tinker-cookbook", "tinker", "torch", "transformers")
            }
            figures = {"upstream": upstream, **bench.facts, "flows": bench.figures}
            Path(path).write_text(json.dumps(figures, indent=2), encoding="utf-8")


def test_every_flow_is_run() -> None:
    from recipe_flows import FLOWS

    assert set(ALL) == set(FLOWS)


@pytest.mark.parametrize("name", ALL if STEPS else QUICK)
def test_upstreams_recipe_and_ours_take_the_same_steps(bench: Any, name: str) -> None:
    from step_facts import beyond

    figures = bench.run(name)
    assert figures["optimiser_steps"] >= (STEPS or FEW)
    assert figures["equal_batches"] == figures["optimiser_steps"]
    assert figures["rewards_vary"] is not False
    assert beyond(figures["apart"]) == {}
    assert len(figures["metrics"]["names"]) >= 4
    assert beyond(figures["metrics"]["apart"]) == {}
