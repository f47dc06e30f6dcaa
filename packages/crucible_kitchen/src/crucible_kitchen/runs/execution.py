"""Executing runs: take the lease, check the plan, run the engine, write down how it ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from crucible_ir import ConflictError, CrucibleError, Experiment, RunRecord, RunState
from crucible_kitchen.blocking import run_to_end
from crucible_kitchen.manifests.credentials import redactor_for, scrub
from crucible_kitchen.manifests.manifest import Manifest
from crucible_kitchen.manifests.ports import ManifestPorts
from crucible_kitchen.runs.attempt import Attempt, Engine, Listener, Prepared, Seat, default_engine
from crucible_kitchen.runs.checkpoints import SavedCheckpoint, resume_point
from crucible_kitchen.runs.folder import RunFolder
from crucible_kitchen.runs.home import Home
from crucible_kitchen.runs.requests import mark_interrupted

__all__ = ["RunExecutor"]


class RunExecutor:
    """Runs what was created, in this process. One executor serves any number of runs, one at a time each.

    ``listeners`` are told every event and every row of metrics as it happens. ``processes``: how many there are of
    which this one is the first.
    """

    def __init__(
        self,
        home: Home,
        *,
        environ: Mapping[str, str] | None = None,
        engine: Engine | None = None,
        listeners: tuple[Listener, ...] = (),
        processes: int = 1,
    ) -> None:
        self._home = home
        self._environ = os.environ if environ is None else environ
        self._engine = engine
        self._listeners = listeners
        self._processes = processes

    def prepare(self, experiment: Experiment, manifest: Manifest) -> Prepared:
        """Check adapters and the whole plan; nothing heavy is loaded. Whoever asks closes ``ports``.

        Raises:
            ConfigError: every problem of the plan at once.
            AdapterError: an adapter is unknown or not installed.
        """
        ports = ManifestPorts(manifest, home=self._home.root, environ=self._environ)
        ports.check()
        try:
            plan = self._the_engine().compile(experiment, ports)
        except BaseException:
            ports.close()
            raise
        return Prepared(experiment=experiment, ports=ports, plan=plan)

    def start(self, run: RunFolder, prepared: Prepared | None = None) -> RunRecord:
        """Execute a run that was just created, to its end or to a question.

        Raises:
            ConflictError: another process owns it, or it was started before.
            InterruptedRun: Ctrl-C or SIGTERM; the run can be resumed.
            CancelledRun: somebody cancelled it.
            CrucibleError: what failed; the run can be resumed.
        """
        return self._owned(run, prepared, lambda: self._may_start(run))

    def resume(self, run: RunFolder, checkpoint: str | None = None) -> RunRecord:
        """Go on with a run that was interrupted, failed, or waited and was answered.

        It goes on from its newest checkpoint, or from the one called ``checkpoint``; without any, from the
        beginning. Metrics logged after that point and checkpoints that nothing speaks of are removed.

        Raises:
            ConflictError: another process owns it, it has ended, or it waits for a decision.
            IntegrityError: the checkpoint is corrupt; names the file and an older checkpoint.
            NotFoundError: there is no such checkpoint.
            CrucibleError: as for ``start``.
        """
        return self._owned(run, None, lambda: self._may_resume(run, checkpoint))

    def check_resume(self, run: RunFolder, checkpoint: str | None = None) -> None:
        """Look whether ``resume`` may begin now.

        Raises:
            ConflictError, IntegrityError, NotFoundError: as for ``resume``.
        """
        with run.lease():
            self._may_resume(run, checkpoint)

    def _the_engine(self) -> Engine:
        if self._engine is None:
            self._engine = default_engine()
        return self._engine

    @staticmethod
    def _may_start(run: RunFolder) -> None:
        if run.logged_record().state is not RunState.CREATED:
            raise ConflictError(
                what=f"{run.run_id} was started before",
                where="start",
                remedy=f"go on with `crucible resume {run.run_id}`, or create a new run",
            )

    @staticmethod
    def _may_resume(run: RunFolder, checkpoint: str | None) -> SavedCheckpoint | None:
        mark_interrupted(run)
        record = run.logged_record()
        if record.state is RunState.WAITING_APPROVAL and "decision" not in (record.waiting_for or {}):
            raise ConflictError(
                what=f"{run.run_id} waits for a decision",
                where="resume",
                remedy=f"decide first; `crucible show {run.run_id}` tells what is asked",
            )
        if record.state in (RunState.COMPLETED, RunState.CANCELLED):
            raise ConflictError(
                what=f"{run.run_id} is {record.state}", where="resume", remedy="create a new run"
            )
        return resume_point(run, checkpoint)

    def _owned(
        self, run: RunFolder, prepared: Prepared | None, admit: Callable[[], SavedCheckpoint | None]
    ) -> RunRecord:
        """One attempt under the lease, written down from its first event to its last."""
        manifest = run.manifest()
        redactor = redactor_for(self._environ, manifest)
        run = RunFolder(run.path, replace(run.settings, redact=redactor))
        unused = prepared
        try:
            with run.lease() as lease:
                attempt = Attempt(
                    run=run,
                    lease=lease,
                    source=admit(),
                    seat=Seat(processes=self._processes, listeners=self._listeners),
                )
                unused = None
                try:
                    ending = attempt.run(lambda: prepared or self._prepared(run, manifest), self._the_engine)
                    attempt.write(ending)
                finally:
                    attempt.close()
        finally:
            if unused is not None:
                run_to_end(unused.ports.aclose)
        if isinstance(ending.error, CrucibleError):
            scrub(ending.error, redactor)
        if ending.error is not None:
            raise ending.error
        return run.record()

    def _prepared(self, run: RunFolder, manifest: Manifest) -> Prepared:
        return self.prepare(run.experiment(), manifest)
