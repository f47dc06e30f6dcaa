"""Whole reinforcement runs over the bigram backend in a moment, and what they leave."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crucible_ir import (
    BackendRef,
    CheckpointRef,
    Experiment,
    ModelRef,
    OptimizerSpec,
    RunRecord,
    TrainingConfig,
)
from crucible_kitchen.api import Crucible
from crucible_kitchen.runs.attempt import InterruptedRun
from crucible_kitchen.workflows.reinforcement import ReinforcementOptions, reinforcement
from crucible_testing.backend import write_bigram_model
from crucible_testing.bench import BIGRAM, LETTERS
from crucible_testing.bigram_checkpoint import read_table

__all__ = ["LetterRun", "LetterRuns", "letters_experiment"]


def letters_experiment(
    folder: Path,
    *,
    env: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    learning_rate: float = 1.0,
    bridge: Mapping[str, Any] | None = None,
    faults: Mapping[str, Any] | None = None,
    seed: int = 0,
    **training: Any,
) -> Experiment:
    """A reinforcement experiment on letters; ``plant_bigram`` must have been called.

    ``env`` are settings of ``Letters``, ``options`` of the workflow, ``faults`` of ``BigramBackend``; ``bridge`` are
    options of the adapter ``math``, which then judges instead of ``FaultyJudge``; ``training`` overrides fields of
    ``TrainingConfig``.
    """
    chosen: dict[str, Any] = {
        "renderer": "role_colon",
        "data": False,
        "env": LETTERS,
        "env_options": dict(env or {}),
        "group_size": 8,
        "max_tokens": 2,
    }
    settings: dict[str, Any] = {
        "batch_size": 4,
        "lora": None,
        "loss": "importance_sampling",
        "drop_last": False,
    } | training
    return Experiment(
        id="letters",
        workflow="reinforcement",
        pipeline=reinforcement(ReinforcementOptions.parse(chosen | dict(options or {}))),
        backend=BackendRef(
            adapters={"training_backend": BIGRAM, "python_bridge": "math" if bridge else LETTERS},
            options={"training_backend": dict(faults or {}), "python_bridge": dict(bridge or {})},
        ),
        model=ModelRef(id="bigram", uri=str(write_bigram_model(folder / "model"))),
        training=TrainingConfig(optimizer=OptimizerSpec(learning_rate=learning_rate), **settings),
        seed=seed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterRun:
    """What a run left."""

    record: RunRecord
    folder: Path
    rows: Sequence[tuple[int, Mapping[str, float]]]
    events: Sequence[tuple[str, Mapping[str, Any]]]

    @property
    def weights(self) -> NDArray[np.float64]:
        """The final table."""
        (ref,) = (data["artifact"] for kind, data in self.events if data.get("role") == "weights")
        return read_table(CheckpointRef(id="final", path=ref["uri"], digest=ref["digest"]))["weights"]

    def column(self, name: str) -> list[float]:
        """A metric in every row that has it."""
        return [metrics[name] for _, metrics in self.rows if name in metrics]

    def texts(self, folder: str) -> dict[str, str]:
        """The files of ``results`` or ``rollouts``."""
        return {path.name: path.read_text("utf-8") for path in sorted((self.folder / folder).glob("*.jsonl"))}

    def said(self) -> list[str]:
        """Messages of the log."""
        return [data["message"] for kind, data in self.events if kind == "log"]

    def same_as(self, other: LetterRun) -> bool:
        """Equal rows, final weights, records and kept rollouts, to the last bit."""
        return (
            (self.rows, self.texts("results"), self.texts("rollouts"))
            == (other.rows, other.texts("results"), other.texts("rollouts"))
        ) and np.array_equal(self.weights, other.weights)


class LetterRuns:
    """Runs letters in a home of its own; ``plant_bigram`` must have been called."""

    def __init__(self, folder: Path, *, environ: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environ = environ
        self.crucible = self._opened()

    def run(self, **settings: Any) -> LetterRun:
        """A whole run of ``letters_experiment(**settings)``."""
        return self.left(self.crucible.run(self.experiment(**settings)))

    def experiment(self, **settings: Any) -> Experiment:
        """``letters_experiment`` with its model in this folder."""
        return letters_experiment(self._folder, **settings)

    def stopped(self, when: Callable[[str, Mapping[str, Any]], bool], **settings: Any) -> RunRecord:
        """A run that is interrupted as by Ctrl-C when something is told to listeners."""

        def stop(what: str, data: Mapping[str, Any]) -> None:
            if when(what, data):
                raise KeyboardInterrupt

        with contextlib.suppress(InterruptedRun):
            self._opened(stop).run(self.experiment(**settings))
        return self.crucible.list(limit=1).runs[0]

    def stopped_at_checkpoint(self, step: int, **settings: Any) -> RunRecord:
        """A run that is interrupted right after a checkpoint."""
        return self.stopped(
            lambda what, data: what == "checkpoint.saved" and data["step"] == step, **settings
        )

    def resumed(self, record: RunRecord) -> LetterRun:
        """The run, gone on to its end."""
        return self.left(self.crucible.resume(record.run_id))

    def left(self, record: RunRecord) -> LetterRun:
        """What a run left."""
        return LetterRun(
            record=record,
            folder=self.crucible.service.store.open(record.run_id).path,
            rows=[(row.step, row.metrics) for row in self.crucible.metrics(record.run_id).rows],
            events=[(event.type, event.data) for event in self.crucible.events(record.run_id).events],
        )

    def _opened(self, *listeners: Callable[[str, Mapping[str, Any]], None]) -> Crucible:
        return Crucible(self._folder / "home", listeners=listeners, environ=self._environ)
