"""The place where recipes of both sides run: models, hub, server, and what came of each flow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import Live
from engine_record import RecordedRun, RecordingBackend
from recipe_flows import FLOWS
from side_by_side import Place, run_ours, run_theirs
from stand_ins import STUDENT, TEACHER, add_repositories, write_model
from step_facts import GRADIENT_WITHIN, WITHIN, compared, metrics_compared

from crucible_gateway.tinker.served import served_model
from crucible_gateway.tinker.settings import TinkerSettings
from crucible_testing.hub import LocalHub

__all__ = ["Bench", "opened"]


@dataclass(slots=True, kw_only=True)
class Bench:
    """Runs flows and keeps their figures; ``facts`` are what all of them share."""

    server: str
    hub: str
    folder: Path
    backend: RecordingBackend
    steps: int
    facts: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)

    def run(self, name: str) -> dict[str, Any]:
        """Both sides of a flow, one after the other, and what their comparison gave."""
        flow = FLOWS[name]
        folder = self.folder / f"flow_{len(list(self.folder.glob('flow_*')))}"
        folder.mkdir()
        place = Place(server=self.server, hub=self.hub, folder=folder)
        their_words, our_words = flow.commands(self.steps)
        their_metrics = run_theirs(flow.module, their_words, place)
        theirs = self._trained()
        our_metrics = run_ours(flow.recipe, our_words, place)
        ours = self._trained()
        figures = compared(theirs, ours)
        metrics = metrics_compared(their_metrics, our_metrics, flow.leave)
        rewards = [
            row["env/all/reward/total"] for row in their_metrics.values() if "env/all/reward/total" in row
        ]
        graded = flow.recipe == "math_rl"
        self.figures[name] = {
            "theirs": [flow.module, *their_words],
            "ours": [flow.recipe, *our_words],
            "alike": flow.alike,
            **figures,
            "rewards_vary": len(set(rewards)) > 1 if graded else None,
            "metrics": metrics,
        }
        return self.figures[name]

    def _trained(self) -> RecordedRun:
        """The one client that was trained since the last call."""
        (run,) = (run for run in self.backend.runs if run.steps)
        self.backend.runs.clear()
        return run


@contextmanager
def opened(folder: Path, *, steps: int) -> Iterator[Bench]:
    """A bench for flows of ``steps`` optimiser steps."""
    models = {
        name: write_model(folder / f"model_{seed}", folder, seed=seed)
        for seed, name in enumerate((STUDENT, TEACHER))
    }
    served = tuple(served_model(f"{name}={path}", local=True) for name, path in models.items())
    settings = TinkerSettings(models=served, state=folder / "state")
    with LocalHub() as hub, Live(settings, wrap=RecordingBackend) as live:
        rows = add_repositories(hub, models, steps=steps)
        yield Bench(
            server=live.url,
            hub=hub.url,
            folder=folder,
            backend=live.backend,
            steps=steps,
            facts={"within": WITHIN, "gradient_within": GRADIENT_WITHIN, "rows": rows},
        )
