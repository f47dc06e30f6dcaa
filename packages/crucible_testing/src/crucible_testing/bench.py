"""A bench for one stage at a time, and small supervised experiments over the bigram backend."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from crucible_datasets import LocalDatasetStore
from crucible_ir import (
    BackendRef,
    DatasetRef,
    Experiment,
    ModelRef,
    OptimizerSpec,
    Problem,
    TrainingConfig,
)
from crucible_kitchen.engine.context import PlanContext, StageContext, State
from crucible_kitchen.engine.scope import ResumePoint, RunScope
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.begin_step import BeginStep
from crucible_kitchen.stages.build_datums import BuildDatums
from crucible_kitchen.stages.forward_backward import ForwardBackward
from crucible_kitchen.stages.init_session import InitSession
from crucible_kitchen.stages.init_tokenizer import InitTokenizer
from crucible_kitchen.stages.keys import IN_FLIGHT
from crucible_kitchen.stages.load_dataset import LoadDataset
from crucible_kitchen.stages.log_metrics import LogMetrics
from crucible_kitchen.stages.open_metrics import OpenMetrics
from crucible_kitchen.stages.optim_step import OptimStep
from crucible_kitchen.workflows.supervised import SupervisedOptions, supervised
from crucible_telemetry import MemoryMetricsStore
from crucible_testing.backend import BigramBackend, write_bigram_model
from crucible_testing.engine import MemoryPorts

__all__ = ["BIGRAM", "LETTERS", "StageBench", "chat_rows", "plant_bigram", "toy_experiment", "write_chats"]

T = TypeVar("T")

BIGRAM = "bigram"
"""Entry-point name under which ``plant_bigram`` adds the backend."""

LETTERS = "plain_letters"
"""Entry-point name under which it adds the environment of ``crucible_testing.letters`` and its judge."""

_ANSWERS = ("aba", "abab", "ababa", "ab")


class StageBench:
    """Runs single stages over a state that a test sets and reads: ``bench[KEY]``.

    Ports default to the bigram backend, metrics in memory and local datasets. ``events`` are what stages
    emitted, ``shown`` what they published to listeners.
    """

    def __init__(
        self,
        run_dir: Path,
        experiment: Experiment,
        *,
        adapters: Mapping[str, Any] | None = None,
        resume: ResumePoint | None = None,
    ) -> None:
        self.backend = BigramBackend()
        self.metrics = MemoryMetricsStore()
        self.ports = MemoryPorts(
            {
                "training_backend": self.backend,
                "metrics_store": self.metrics,
                "dataset_store": LocalDatasetStore(),
                **(adapters or {}),
            }
        )
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.shown: list[tuple[str, Mapping[str, Any]]] = []
        self.prepared: dict[str, Any] = {}
        self.state = State()
        self._resources = AsyncExitStack()
        ticks = itertools.count()
        run_dir.mkdir(parents=True, exist_ok=True)
        self.scope = RunScope(
            run_id=run_dir.name,
            run_dir=run_dir,
            experiment=experiment,
            ports=self.ports,
            emit=lambda kind, data: self.events.append((kind, dict(data))),
            decision_for=lambda _: None,
            cancel_requested=lambda: False,
            clock=lambda: float(next(ticks)),
            resume=resume,
            redact=lambda text: text.replace("hunter2", "[secret]"),
            listeners=(lambda what, data: self.shown.append((what, data)),),
        )

    def __getitem__(self, key: Key[T]) -> T:
        value: T = self.state.values[key.name]
        return value

    def __setitem__(self, key: Key[T], value: T) -> None:
        self.state.values[key.name] = value
        if key.durable:
            self.state.durable.add(key.name)

    def check(self, kind: type[Stage], **options: Any) -> list[str]:
        """Problems that the stage's own check finds, as text."""
        plan = PlanContext(
            experiment=self.scope.experiment, ports=self.ports, path="pipeline[0]", prepared=self.prepared
        )
        problems: list[Problem] = list(self._stage(kind, options).check(plan))
        return [str(problem) for problem in problems]

    def run(self, kind: type[Stage], **options: Any) -> None:
        """Run the stage once, under its own name as label."""
        ctx = StageContext(
            scope=self.scope,
            state=self.state,
            stage=self._stage(kind, options),
            label=kind.name,
            cursor=(0,),
            resources=self._resources,
            prepared=self.prepared,
        )

        async def main() -> None:
            await self._stage(kind, options).run(ctx)

        asyncio.run(main())

    def ready(self) -> None:
        """Everything up to the first step: data, model, tokenizer, examples, metrics."""
        self.run(LoadDataset)
        self.run(InitSession)
        self.run(InitTokenizer, renderer="role_colon")
        self.run(BuildDatums)
        self.run(OpenMetrics)

    def step(self) -> None:
        """One optimiser step with its row, without evaluation and checkpoint."""
        for kind in (BeginStep, ForwardBackward, OptimStep, LogMetrics):
            self.run(kind)

    def turn(self, loop: str, index: int, item: Any = None) -> None:
        """Stand where turn ``index`` of a loop would."""
        self.state.values[f"{loop}_index"] = index
        self.state.values[f"{loop}_item"] = index if item is None else item

    def settle(self) -> None:
        """Await all steps in flight."""
        asyncio.run(self[IN_FLIGHT].settle())

    def close(self) -> None:
        """Close what stages opened."""
        asyncio.run(self._resources.aclose())

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Data of the events of one type."""
        return [data for name, data in self.events if name == kind]

    def _stage(self, kind: type[Stage], options: Mapping[str, Any]) -> Stage:
        return kind(kind.options_model.parse(dict(options)))


def chat_rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Conversations of one question and one answer, all different and easy to learn."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"q{number}"},
                {"role": "assistant", "content": _ANSWERS[number % len(_ANSWERS)]},
            ]
        }
        for number in range(first, first + count)
    ]


def write_chats(path: Path, rows: list[dict[str, Any]]) -> str:
    """Rows as JSONL; returns the path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def plant_bigram(folder: Path) -> Path:
    """Metadata of a package that adds the bigram backend, an environment and its judge; put the folder on the path."""
    info = folder / "crucible_bigram-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: crucible-bigram\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[crucible.training_backend]\n{BIGRAM} = crucible_testing.backend:BigramBackend\n"
        f"[crucible.environments]\n{LETTERS} = crucible_testing.letters:Letters\n"
        f"[crucible.python_bridge]\n{LETTERS} = crucible_testing.letters:FaultyJudge\n"
    )
    return folder


def toy_experiment(
    folder: Path,
    *,
    train: int = 16,
    held_out: int = 6,
    workflow: SupervisedOptions | None = None,
    learning_rate: float = 0.2,
    faults: Mapping[str, Any] | None = None,
    **training: Any,
) -> Experiment:
    """A supervised experiment over files that are written into ``folder``.

    ``faults`` are options of ``BigramBackend``; ``training`` overrides fields of ``TrainingConfig``.
    """
    model = write_bigram_model(folder / "model")
    train_path = write_chats(folder / "train.jsonl", chat_rows(train))
    held_path = write_chats(folder / "held_out.jsonl", chat_rows(held_out, first=train)) if held_out else None
    options = workflow or SupervisedOptions(
        renderer="role_colon",
        evaluate=bool(held_out),
        sample_prompts=2 if held_out else 0,
        sample_max_tokens=8,
    )
    settings: dict[str, Any] = {"batch_size": 4, "max_length": 64, "lora": None} | training
    return Experiment(
        id="toy",
        workflow="supervised",
        pipeline=supervised(options),
        backend=BackendRef(
            adapters={"training_backend": BIGRAM},
            options={"training_backend": dict(faults)} if faults else {},
        ),
        model=ModelRef(id="bigram", uri=str(model)),
        dataset=DatasetRef(id=train_path, shuffle_seed=0),
        eval_dataset=DatasetRef(id=held_path) if held_path else None,
        training=TrainingConfig(optimizer=OptimizerSpec(learning_rate=learning_rate), **settings),
    )
