"""Runs through a launcher: in several processes, or elsewhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crucible_ir import (
    BackendRef,
    ConfigError,
    CrucibleError,
    Event,
    EventType,
    MetricRow,
    RunRecord,
    RunState,
    ServiceError,
    error_class,
)
from crucible_kitchen.manifests.manifest import Manifest
from crucible_kitchen.manifests.ports import ManifestPorts
from crucible_kitchen.plugins.loading import load_adapter
from crucible_kitchen.runs.attempt import InterruptedRun, Listener
from crucible_kitchen.runs.folder import RunFolder
from crucible_kitchen.runs.home import HOME_VARIABLE, Home
from crucible_train.ports import Job, Launcher, Resources

__all__ = [
    "Launch",
    "Viewer",
    "launch_again",
    "launch_of",
    "opened",
    "require_distributed",
    "submit",
    "with_launcher",
]

LAUNCHED = "run.launched"
_LOOK_S = 0.5
_TAIL = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a run is started: by which launcher, in how many processes (of each node)."""

    launcher: str
    processes: int = 1


def launch_of(manifest: Manifest, processes: int) -> Launch | None:
    """With the manifest's launcher; None without one, for this process or a plain one of its own."""
    named = manifest.ports.get("launcher")
    return None if named is None else Launch(launcher=named.adapter, processes=processes)


def launch_again(run: RunFolder, launcher: str | None, processes: int | None) -> Launch | None:
    """As the run was started last, except for what is given; None if that needs no launcher."""
    found = [event.data for event in run.events() if event.type == LAUNCHED]
    before: Mapping[str, Any] = found[-1] if found else {"launcher": None, "processes": 1}
    chosen, number = launcher or before["launcher"], processes or int(before["processes"])
    if launcher is None and number == 1 and chosen in (None, "local"):
        return None
    return Launch(launcher=str(chosen or "local"), processes=number)


def with_launcher(manifest: Manifest, launcher: str | None) -> Manifest:
    """``manifest`` with that launcher and the options it has for it; None is its own, or the local one."""
    if launcher is None and "launcher" in manifest.ports:
        return manifest
    chosen = {"launcher": launcher or "local"}
    return manifest.with_overrides(BackendRef(manifest=manifest.profile, adapters=chosen))


def require_distributed(ports: ManifestPorts, processes: int) -> None:
    """Look whether the manifest's engine trains in several processes, before anything is written.

    Raises:
        ConfigError: it does not.
    """
    if processes == 1:
        return
    choice = ports.manifest.ports.get("training_backend")
    name = choice.adapter if choice else "none"
    if choice is None or not hasattr(load_adapter("training_backend", name)[1], "follow"):
        raise ConfigError(
            what=f"processes = {processes}, but the backend {name!r} trains in one",
            where="nproc",
            remedy="leave it out, or choose a manifest with the local engine",
        )


def submit(
    run: RunFolder, home: Home, launcher: Launcher, launch: Launch, *, arguments: tuple[str, ...] = ()
) -> str:
    """Hand the run to ``launcher`` and write that down; the job's id.

    Raises:
        CrucibleError: as ``Launcher.submit``.
    """
    folder = Path(str(run.creation().data.get("folder", "")))
    job = Job(
        name=run.run_id,
        module="crucible_kitchen.runs.worker",
        arguments=(run.run_id, "--processes", str(launch.processes), *arguments),
        env={HOME_VARIABLE: str(home.root)},
        folder=folder if folder.is_dir() else home.root,
        log=run.path / "worker.log",
        resources=Resources(processes=launch.processes),
    )
    job_id = launcher.submit(job)
    run.append(LAUNCHED, {"launcher": launch.launcher, "job": job_id, "processes": launch.processes})
    return job_id


@contextmanager
def opened(ports: ManifestPorts) -> Iterator[Launcher]:
    """The launcher of ``ports``, which are closed after the block."""
    try:
        yield ports.get("launcher")
    finally:
        ports.close()


class Viewer:
    """Follows a run that executes elsewhere and tells listeners of it as if it were here.

    ``rows`` gives the rows of metrics after a step. Made before the run is handed over, it misses nothing.
    """

    def __init__(
        self, run: RunFolder, launcher: Launcher, *, rows: Callable[[int | None], Iterable[MetricRow]]
    ) -> None:
        self._run = run
        self._launcher = launcher
        self._job = ""
        self._rows = rows
        self._seen = run.logged_record().last_seq
        self._step: int | None = None

    def watch(self, job_id: str, listeners: tuple[Listener, ...]) -> RunRecord:
        """Until the job is over; Ctrl-C or SIGTERM cancels it, and the run can be resumed.

        Raises:
            InterruptedRun: a signal came, or a process of the run is gone.
            CrucibleError: what the run failed with, or why the job ended before the run began.
        """
        self._job = job_id
        try:
            with _sigterm_as_sigint():
                self._until_over(listeners)
        except KeyboardInterrupt:
            self._launcher.cancel(self._job)
            self._until_over(listeners)
        return self._outcome()

    def _until_over(self, listeners: tuple[Listener, ...]) -> None:
        while not self._launcher.wait(self._job, _LOOK_S).over:
            self._tell(listeners)
        self._tell(listeners)

    def _tell(self, listeners: tuple[Listener, ...]) -> None:
        events = self._run.events(self._seen)
        if events:
            self._seen = events[-1].seq
        if not listeners:
            return
        for event in events:
            if event.type == EventType.RUN_RESUMED:
                self._step = int(event.data["step"]) - 1
            for listener in listeners:
                listener(str(event.type), event.data)
        for row in self._rows(self._step):
            self._step = row.step
            for listener in listeners:
                listener("metrics", row.model_dump(mode="json"))

    def _outcome(self) -> RunRecord:
        record = self._run.record()
        if record.state in (RunState.COMPLETED, RunState.WAITING_APPROVAL, RunState.CANCELLED):
            return record
        if record.state is RunState.INTERRUPTED:
            raise InterruptedRun(
                what=f"{record.run_id} was interrupted",
                remedy=f"go on with `crucible resume {record.run_id}`",
            )
        failed = [event for event in self._run.events() if event.type == EventType.RUN_FAILED]
        if record.state is RunState.FAILED and failed:
            raise _error_of(failed[-1])
        status = self._launcher.status(self._job)
        said = self._launcher.logs(self._job)[-_TAIL:].strip()
        raise ServiceError(
            what=f"the job {self._job} {status.state} before the run began ({status.reason or said or 'no output'})",
            where="launcher",
            remedy=f"look into {self._run.path / 'worker.log'}",
        )


@contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt inside the block, where signals are heard at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _error_of(event: Event) -> CrucibleError:
    """The error that a run failed with, from its last event."""
    return error_class(str(event.data.get("kind")))(what=str(event.data["error"]))
