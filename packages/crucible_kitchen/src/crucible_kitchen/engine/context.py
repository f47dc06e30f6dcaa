"""What a stage sees while it is checked and while it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from crucible_ir import (
    CheckpointRef,
    ConfigError,
    CrucibleError,
    EventType,
    Experiment,
    MetricRow,
    TrainingConfig,
)
from crucible_ir.approvals import ApprovalDecision, ApprovalRequest
from crucible_kitchen.engine.scope import Ports, ResumePoint, RunScope
from crucible_kitchen.engine.stage import Key, Stage
from crucible_train.seeds import generator

__all__ = ["PlanContext", "StageContext", "State", "SuspendRun"]

T = TypeVar("T")


class SuspendRun(Exception):
    """Raised by ``StageContext.approval`` when the answer is not there yet."""

    def __init__(self, request: ApprovalRequest) -> None:
        super().__init__(request.question)
        self.request = request


@dataclass(slots=True)
class State:
    """Values of a run's keys by name."""

    values: dict[str, Any] = field(default_factory=dict)
    durable: set[str] = field(default_factory=set)

    def durable_values(self) -> dict[str, Any]:
        """The JSON values that go into a checkpoint."""
        return {name: self.values[name] for name in sorted(self.durable) if name in self.values}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContext:
    """What ``Stage.check`` may look at: the experiment, the adapters, and room for what it prepared."""

    experiment: Experiment
    ports: Ports
    path: str
    prepared: dict[str, Any]
    """Values that checking had to compute anyway; ``StageContext.prepared`` hands them to ``run``."""


@cache
def _declarations(stage: type[Stage]) -> tuple[dict[str, Key[Any]], dict[str, Key[Any]]]:
    """By name, the keys that a stage may read and those that it may write."""
    writes = {key.name: key for key in stage.writes}
    return {key.name: key for key in (*stage.reads, *stage.optional_reads)} | writes, writes


class StageContext:
    """The run, seen from one stage."""

    __slots__ = ("_cursor", "_resources", "_scope", "_stage", "_state", "label", "prepared")

    def __init__(
        self,
        *,
        scope: RunScope,
        state: State,
        stage: Stage,
        label: str,
        cursor: tuple[int, ...],
        resources: AsyncExitStack,
        prepared: dict[str, Any],
    ) -> None:
        self._scope = scope
        self._state = state
        self._stage = stage
        self._cursor = cursor
        self._resources = resources
        self.label = label
        self.prepared = prepared

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self._scope.run_id

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return self._scope.run_dir

    @property
    def experiment(self) -> Experiment:
        """What is being run."""
        return self._scope.experiment

    @property
    def training(self) -> TrainingConfig:
        """The experiment's training settings.

        Raises:
            ConfigError: it has none.
        """
        training = self._scope.experiment.training
        if training is None:
            raise ConfigError(
                what="missing", where="training", remedy="give the experiment training settings"
            )
        return training

    @property
    def resume(self) -> ResumePoint | None:
        """The checkpoint this process went on from, or None in a fresh run."""
        return self._scope.resume

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self._scope.processes

    def seconds(self) -> float:
        """Monotonic seconds of the run's clock."""
        return self._scope.clock()

    def get(self, key: Key[T]) -> T:
        """The value of a declared key."""
        self._declared(key, _declarations(type(self._stage))[0], "reads")
        try:
            value: T = self._state.values[key.name]
        except KeyError:
            raise CrucibleError(
                what=f"state has no {key.name!r} yet",
                where=self.label,
                remedy="put a stage that writes it before this one",
            ) from None
        return value

    def find(self, key: Key[T], default: T) -> T:
        """The value of a declared key, or ``default`` when nothing has written it."""
        return self.get(key) if key.name in self._state.values else default

    def set(self, key: Key[T], value: T) -> None:
        """Write a declared key."""
        self._declared(key, _declarations(type(self._stage))[1], "writes")
        self._state.values[key.name] = value
        if key.durable:
            self._state.durable.add(key.name)

    def _declared(self, key: Key[Any], keys: Mapping[str, Key[Any]], what: str) -> None:
        declared = keys.get(key.name)
        if declared is not key and declared != key:
            raise CrucibleError(
                what=f"stage {self._stage.name!r} uses the key {key.name!r} without declaring it",
                where=self.label,
                remedy=f"add it to {type(self._stage).__name__}.{what}",
            )

    def port(self, name: str) -> Any:
        """The adapter of a declared port."""
        if name not in (*self._stage.ports, *self._stage.optional_ports):
            raise CrucibleError(
                what=f"stage {self._stage.name!r} uses the port {name!r} without declaring it",
                where=self.label,
                remedy=f"add it to {type(self._stage).__name__}.ports",
            )
        return self._scope.ports.get(name)

    def has_port(self, name: str) -> bool:
        """Whether the manifest names an adapter for the port."""
        return name in self._scope.ports.names()

    def redact(self, text: str) -> str:
        """``text`` without secrets; what a stage writes to a file of the run goes through it."""
        return self._scope.redact(text)

    def emit(self, event: EventType | str, data: Mapping[str, Any] | None = None) -> None:
        """Append an event to the run's log and show it to the listeners."""
        payload = dict(data or {})
        self._scope.emit(str(event), payload)
        self._publish(str(event), payload)

    def publish_metrics(self, row: MetricRow) -> None:
        """Show a row of metrics to the listeners (progress display); storing it is the stage's work."""
        self._publish("metrics", {"step": row.step, "metrics": row.metrics, "time_s": row.time_s})

    def publish(self, what: str, data: Mapping[str, Any]) -> None:
        """Show something passing (how far a long stage is) to the listeners; it is not stored."""
        self._publish(what, dict(data))

    def _publish(self, what: str, data: Mapping[str, Any]) -> None:
        for listener in self._scope.listeners:
            listener(what, data)

    async def enter(self, resource: AbstractAsyncContextManager[T]) -> T:
        """Open a resource that is closed when the run ends, however it ends."""
        return await self._resources.enter_async_context(resource)

    def defer(self, close: Callable[[], Awaitable[None]]) -> None:
        """Await ``close()`` when the run ends, however it ends; last deferred, first closed."""
        self._resources.push_async_callback(close)

    def rng(self, purpose: str, step: int = 0) -> np.random.Generator:
        """A generator that depends on the experiment's seed, the purpose and the step alone."""
        return generator(self.experiment.seed, purpose, step)

    def approval(self, question: str, payload: Mapping[str, Any]) -> ApprovalDecision:
        """The decision on exactly this payload at this place and turn; suspends the run until there is one."""
        place = f"{self.label} at {'.'.join(map(str, self._cursor))}"
        request = ApprovalRequest(run_id=self.run_id, stage=place, question=question, payload=dict(payload))
        decision = self._scope.decision_for(request.digest)
        if decision is None:
            raise SuspendRun(request)
        return decision

    def commit_checkpoint(self, checkpoint: CheckpointRef, *, step: int, metrics_position: int) -> None:
        """Make a checkpoint count: from here on a resumed run goes on right after this stage."""
        self.emit(
            EventType.CHECKPOINT_SAVED,
            {
                "checkpoint": checkpoint.model_dump(mode="json"),
                "cursor": list(self._cursor),
                "state": self._state.durable_values(),
                "metrics_position": metrics_position,
                "step": step,
            },
        )
