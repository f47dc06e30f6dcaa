"""One process's turn at a run: begin, execute, listen for signals, say how it ended."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import anyio

from crucible_ir import (
    AdapterError,
    CancelledRun,
    CrucibleError,
    EventType,
    ExitCode,
    Experiment,
    ProcessLost,
    RunState,
    StorageError,
)
from crucible_kitchen.blocking import run_to_end
from crucible_kitchen.engine.scope import Outcome, Ports, RunScope
from crucible_kitchen.manifests.ports import ManifestPorts
from crucible_kitchen.runs.checkpoints import SavedCheckpoint, leftovers
from crucible_kitchen.runs.folder import RunFolder
from crucible_kitchen.runs.lease import Lease
from crucible_kitchen.runs.requests import CancelWatch, DecisionBook

__all__ = ["Attempt", "Ending", "Engine", "InterruptedRun", "Listener", "Prepared", "Seat", "default_engine"]

Listener = Callable[[str, Mapping[str, Any]], None]
"""Told every event and every row of metrics as it happens; type and data."""


class InterruptedRun(CrucibleError):
    """The process was asked to end (Ctrl-C, SIGTERM); the run can be resumed."""

    exit_code = ExitCode.INTERRUPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What executes a pipeline: ``compile`` checks it whole, ``execute`` walks it."""

    compile: Callable[[Experiment, Ports], Any]
    execute: Callable[[Any, RunScope], Awaitable[Outcome]]


def default_engine() -> Engine:
    """The workflow engine over the stages that are installed."""
    from crucible_kitchen.engine.execution import execute
    from crucible_kitchen.engine.plan import compile_plan
    from crucible_kitchen.plugins.stages import InstalledStages

    stages = InstalledStages()
    return Engine(compile=lambda experiment, ports: compile_plan(experiment, ports, stages), execute=execute)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An experiment whose plan was checked, with the adapters it was checked against."""

    experiment: Experiment
    ports: ManifestPorts
    plan: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ended: the event that says so, and what is raised after it."""

    event: EventType
    data: Mapping[str, Any] = field(default_factory=dict)
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where an attempt is made: how many processes take part, and who in this one listens."""

    processes: int = 1
    listeners: tuple[Listener, ...] = ()


class Attempt:
    """One process's turn at a run. A turn that does not get to begin a second time leaves no event."""

    def __init__(
        self,
        *,
        run: RunFolder,
        lease: Lease,
        source: SavedCheckpoint | None,
        seat: Seat,
    ) -> None:
        self._run = run
        self._lease = lease
        self._source = source
        self._listeners = seat.listeners
        self._processes = seat.processes
        self._log = run.log()
        record = run.logged_record()
        self._fresh = record.state is RunState.CREATED
        self._heard = 0 if self._fresh else record.last_seq
        self._began = False

    def run(self, prepare: Callable[[], Prepared], engine: Callable[[], Engine]) -> Ending:
        """Prepare, execute, close the adapters; never raises what the run itself may raise."""
        try:
            prepared = prepare()
            outcome = run_to_end(self._driven, prepared, engine())
        except (KeyboardInterrupt, InterruptedRun):
            return self._interrupted()
        except ProcessLost as error:
            return Ending(event=EventType.RUN_INTERRUPTED, data={"reason": str(error)}, error=error)
        except CancelledRun as error:
            return Ending(event=EventType.RUN_CANCELLED, error=error)
        except Exception as error:  # noqa: BLE001 - the run boundary: whatever happens is written down
            return self._failed(_told(error, self._run.run_id))
        if outcome.suspended is not None:
            return Ending(
                event=EventType.RUN_WAITING, data={"request": outcome.suspended.model_dump(mode="json")}
            )
        return Ending(event=EventType.RUN_COMPLETED, data={"results": dict(outcome.results)})

    def write(self, ending: Ending) -> None:
        """Append the last event; when even that fails, the first error counts and the run is ``interrupted``."""
        if not (self._began or self._fresh):
            return
        try:
            self._emit(ending.event, ending.data)
        except CrucibleError as error:
            if ending.error is None:
                raise
            ending.error.add_note(f"the end of the run could not be written down: {error}")
        self._tell(ending.event, ending.data)

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _interrupted(self) -> Ending:
        run_id = self._run.run_id
        error = InterruptedRun(
            what=f"{run_id} was interrupted", remedy=f"go on with `crucible resume {run_id}`"
        )
        if self._fresh and not self._began:
            self._begin()
        return Ending(event=EventType.RUN_INTERRUPTED, data={"reason": "signal"}, error=error)

    def _failed(self, error: Exception) -> Ending:
        code = error.exit_code if isinstance(error, CrucibleError) else ExitCode.FAILED
        data = {"error": str(error) or repr(error), "kind": type(error).__name__, "exit_code": int(code)}
        return Ending(event=EventType.RUN_FAILED, data=data, error=error)

    def _emit(self, type: str, data: Mapping[str, Any]) -> None:
        self._lease.check()
        self._log.append(type, data)

    def _tell(self, type: str, data: Mapping[str, Any]) -> None:
        for listener in self._listeners:
            listener(str(type), data)

    def _begin(self) -> None:
        """Write that the run starts or goes on; leftovers are removed once the log no longer counts on them."""
        source = self._source
        data: dict[str, Any] = {"pid": os.getpid(), "processes": self._processes}
        left = [] if self._fresh else leftovers(self._run, source)
        if not self._fresh:
            data |= {
                "checkpoint": source.name if source else None,
                "checkpoint_seq": source.seq if source else 0,
                "step": source.point.step if source else 0,
                "removed": [path.name for path in left],
                "processes_before": self._before(),
            }
        type = EventType.RUN_STARTED if self._fresh else EventType.RUN_RESUMED
        event = self._log.append(type, data)
        self._began = True
        for path in left:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self._tell(type, event.data)

    def _before(self) -> int:
        """How many processes took part in the attempt before this one."""
        began = (EventType.RUN_STARTED, EventType.RUN_RESUMED)
        found = [event.data.get("processes", 1) for event in self._run.events() if event.type in began]
        return int(found[-1]) if found else self._processes

    async def _driven(self, prepared: Prepared, engine: Engine) -> Outcome:
        """Execute the plan while listening for signals; the adapters are closed, however it ends."""
        try:
            self._begin()
            if not self._fresh:
                self._cut_metrics(prepared.ports)
            scope = RunScope(
                run_id=self._run.run_id,
                run_dir=self._run.path,
                experiment=prepared.experiment,
                ports=prepared.ports,
                emit=self._emit,
                decision_for=DecisionBook(self._run),
                cancel_requested=CancelWatch(self._run, after=self._heard),
                clock=time.monotonic,
                resume=self._source.point if self._source else None,
                processes=self._processes,
                redact=self._run.settings.redact.text,
                listeners=self._listeners,
            )
            return await _interruptible(lambda: engine.execute(prepared.plan, scope))
        finally:
            with anyio.CancelScope(shield=True):
                await prepared.ports.aclose()

    def _cut_metrics(self, ports: Ports) -> None:
        if "metrics_store" in ports.names():
            position = self._source.point.metrics_position if self._source else 0
            ports.get("metrics_store").truncate(self._run.run_id, position)


_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


def _told(error: Exception, run_id: str) -> Exception:
    """``error`` as one of ours where its kind says what to do; other errors stay as they are."""
    told: CrucibleError
    if isinstance(error, ImportError):
        told = AdapterError(
            what=f"the module {error.name!r} cannot be imported ({error})",
            where=run_id,
            remedy="install the package, or the extra, that brings it",
        )
    elif isinstance(error, OSError) and error.errno in _NO_SPACE:
        told = StorageError(
            what=str(error),
            where=run_id,
            remedy=f"free space, then `crucible resume {run_id}`; what was complete before is intact",
        )
    else:
        return error
    told.__cause__ = error
    return told


async def _interruptible(work: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """``work``, cancelled by the first SIGINT or SIGTERM; a second one then ends the process as usual.

    Raises:
        InterruptedRun: a signal came.
    """
    if threading.current_thread() is not threading.main_thread():
        return await work()
    outcome: list[Outcome] = []
    error: list[BaseException] = []
    signals: list[int] = []
    with ExitStack() as listening:
        received = listening.enter_context(anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM))

        async def watch(group: anyio.abc.TaskGroup) -> None:
            async for number in received:
                signals.append(number)
                listening.close()
                group.cancel_scope.cancel()
                return

        async with anyio.create_task_group() as group:
            group.start_soon(watch, group)
            try:
                outcome.append(await work())
            except Exception as failure:  # noqa: BLE001 - handed on below, outside the task group
                error.append(failure)
            group.cancel_scope.cancel()
    if error and not signals:
        raise error[0]
    if outcome:
        return outcome[0]
    raise InterruptedRun(what=f"stopped by {signal.Signals(signals[0]).name}")
