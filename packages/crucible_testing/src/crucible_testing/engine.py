"""A catalogue of toy stages and a scope in memory, to try the engine without a run folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import anyio

from crucible_ir import CheckpointRef, Contract, Experiment, ServiceError, TrainError
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.execution import execute
from crucible_kitchen.engine.plan import compile_plan
from crucible_kitchen.engine.scope import Outcome, ResumePoint, RunScope
from crucible_kitchen.engine.stage import Key, Stage

TRACE: Key[list[str]] = Key("trace", durable=True)
ROUNDS: Key[int] = Key("rounds")
FLAG: Key[bool] = Key("flag")
COUNT: Key[int] = Key("count", durable=True)


@dataclass
class MemoryPorts:
    adapters: dict[str, Any] = field(default_factory=dict)

    def names(self) -> frozenset[str]:
        return frozenset(self.adapters)

    def get(self, name: str) -> Any:
        return self.adapters[name]

    async def aclose(self) -> None:
        return


class Catalog:
    def __init__(self, *stages: type[Stage]) -> None:
        self._stages = {stage.name: stage for stage in stages}

    def names(self) -> list[str]:
        return list(self._stages)

    def get(self, name: str) -> type[Stage]:
        return self._stages[name]


class BeginOptions(Contract):
    rounds: int = 2
    flag: bool = True


class Begin(Stage):
    """Open the trace."""

    name = "begin"
    writes = (TRACE, ROUNDS, FLAG, COUNT)
    options_model = BeginOptions
    setup = True

    async def run(self, ctx: StageContext) -> None:
        if ctx.resume is None:
            ctx.set(TRACE, [])
            ctx.set(COUNT, 0)
        ctx.set(ROUNDS, self.options.rounds)
        ctx.set(FLAG, self.options.flag)


class NoteOptions(Contract):
    text: str = "note"


class Note(Stage):
    """Write one word into the trace."""

    name = "note"
    reads = (TRACE, COUNT)
    writes = (TRACE, COUNT)
    options_model = NoteOptions

    async def run(self, ctx: StageContext) -> None:
        ctx.set(TRACE, [*ctx.get(TRACE), self.options.text])
        ctx.set(COUNT, ctx.get(COUNT) + 1)


class Save(Stage):
    """Commit a checkpoint."""

    name = "save"
    reads = (COUNT,)
    commits = True

    async def run(self, ctx: StageContext) -> None:
        step = ctx.get(COUNT)
        ctx.commit_checkpoint(
            CheckpointRef(id=f"c{step}", path="x", step=step), step=step, metrics_position=0
        )


class FailOptions(Contract):
    after: int = 0
    retryable: bool = False


class Fail(Stage):
    """Fail the first ``after`` times, or always."""

    name = "fail"
    reads = (TRACE,)
    options_model = FailOptions
    calls: ClassVar[list[int]] = []

    async def run(self, ctx: StageContext) -> None:
        self.calls.append(1)
        if self.options.after == 0 or len(self.calls) <= self.options.after:
            if self.options.retryable:
                raise ServiceError(what="try later", where="fail", retryable=True)
            raise TrainError(what="broken", where="fail")


class Undo(Stage):
    """Remember rollbacks."""

    name = "undo"
    undone: ClassVar[list[str]] = []

    async def run(self, ctx: StageContext) -> None:
        return

    async def rollback(self, ctx: StageContext, error: BaseException) -> None:
        self.undone.append(ctx.label)


class Sleep(Stage):
    """Never end by itself."""

    name = "sleep"

    async def run(self, ctx: StageContext) -> None:
        await anyio.sleep_forever()


class Ask(Stage):
    """Ask a person."""

    name = "ask"
    reads = (TRACE,)
    writes = (TRACE,)

    async def run(self, ctx: StageContext) -> None:
        decision = ctx.approval("go on?", {"count": len(ctx.get(TRACE))})
        ctx.set(TRACE, [*ctx.get(TRACE), f"approved={decision.approved}"])


ALL = Catalog(Begin, Note, Save, Fail, Undo, Sleep, Ask)


@dataclass
class Recorder:
    """Runs an experiment in memory and keeps its events."""

    experiment: Experiment
    catalog: Any = ALL
    ports: MemoryPorts = field(default_factory=MemoryPorts)
    decisions: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    cancel: Callable[[], bool] = lambda: False

    def run(self, resume: ResumePoint | None = None) -> Outcome:
        ticks = itertools.count()
        scope = RunScope(
            run_id="run_1_00000000",
            run_dir=Path("unused"),
            experiment=self.experiment,
            ports=self.ports,
            emit=lambda kind, data: self.events.append((kind, dict(data))),
            decision_for=self.decisions.get,
            cancel_requested=self.cancel,
            clock=lambda: float(next(ticks)),
            resume=resume,
        )
        plan = compile_plan(self.experiment, self.ports, self.catalog)

        async def main() -> Outcome:
            return await execute(plan, scope)

        return anyio.run(main)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [data for name, data in self.events if name == kind]


def resume_point(data: Mapping[str, Any]) -> ResumePoint:
    """The resume point that a ``checkpoint.saved`` event describes."""
    return ResumePoint(
        checkpoint=CheckpointRef.model_validate(data["checkpoint"]),
        cursor=tuple(data["cursor"]),
        state=data["state"],
        metrics_position=data["metrics_position"],
        step=data["step"],
    )
