"""One run's folder: its paths, its log, its experiment and its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crucible_ir import Event, EventType, Experiment, IntegrityError, NotFoundError, RunRecord, RunState
from crucible_ir.redaction import Redactor
from crucible_kitchen.manifests.manifest import Manifest
from crucible_kitchen.runs.lease import Lease, LeaseSettings, Owner, owner_of
from crucible_kitchen.runs.projection import project
from crucible_telemetry.events.log import EventLog, LogSettings

__all__ = ["RunFolder", "RunSettings"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What every run folder of a store shares.

    ``redact`` takes secrets out of event data before it is written; ``now`` dates events.
    """

    now: Callable[[], datetime] = _utc_now
    redact: Redactor = field(default_factory=Redactor)
    lease: LeaseSettings = field(default_factory=LeaseSettings)
    log: LogSettings = field(default_factory=LogSettings)


class RunFolder:
    """``runs/<run_id>/``. Opening it reads nothing; ``record`` and ``experiment`` read when asked."""

    def __init__(self, path: Path, settings: RunSettings | None = None) -> None:
        self.path = path
        self.settings = settings or RunSettings()

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.path.name

    @property
    def events_path(self) -> Path:
        """The log: the truth about the run."""
        return self.path / "events.jsonl"

    @property
    def checkpoints_path(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    def log(self) -> EventLog:
        """The run's log; close it."""
        return self.log_at(self.events_path)

    def log_at(self, path: Path) -> EventLog:
        """The run's log while its folder is elsewhere; close it."""
        settings = self.settings
        return EventLog(
            path,
            run_id=self.run_id,
            clock=settings.now,
            redact=settings.redact,
            settings=settings.log,
        )

    def append(self, type: str, data: Mapping[str, Any] | None = None) -> Event:
        """Append one event from outside the owner (a request, a decision)."""
        log = self.log()
        try:
            return log.append(type, data)
        finally:
            log.close()

    def events(self, after: int = 0, limit: int | None = None) -> list[Event]:
        """Events with ``seq > after``."""
        return self.log().read(after, limit)

    def lease(self) -> Lease:
        """The run's lease, not yet acquired."""
        return Lease(self.path / "lease.lock", run_id=self.run_id, settings=self.settings.lease)

    def owner(self) -> Owner | None:
        """The living process that owns the run, if any."""
        return owner_of(self.path / "lease.lock", self.settings.lease)

    def logged_record(self) -> RunRecord:
        """The record as the log tells it.

        Raises:
            NotFoundError: there is no such run.
            IntegrityError: the log cannot be read.
        """
        record = project(self.events())
        if record is None:
            raise NotFoundError(
                what=f"there is no run {self.run_id}", where=str(self.path), remedy="crucible runs lists them"
            )
        return record

    def record(self) -> RunRecord:
        """The record as it stands: a run whose owner is gone without a word is ``interrupted``."""
        return self.as_it_stands(self.logged_record())

    def as_it_stands(self, record: RunRecord) -> RunRecord:
        """``record`` with the state ``interrupted`` if it says ``running`` and nobody runs it."""
        if record.state is not RunState.RUNNING or self.owner() is not None:
            return record
        return record.model_copy(update={"state": RunState.INTERRUPTED})

    def creation(self) -> Event:
        """The ``run.created`` event.

        Raises:
            NotFoundError: there is no such run.
        """
        events = self.events(limit=1)
        if not events or events[0].type != EventType.RUN_CREATED:
            raise NotFoundError(
                what=f"there is no run {self.run_id}", where=str(self.path), remedy="crucible runs lists them"
            )
        return events[0]

    def manifest(self) -> Manifest:
        """The adapters the run was created with."""
        return Manifest.parse(self.creation().data["manifest"], where=f"{self.run_id}.manifest")

    def experiment(self) -> Experiment:
        """What the run does.

        Raises:
            NotFoundError: there is no such run.
            IntegrityError: ``experiment.json`` is not what was created.
        """
        path = self.path / "experiment.json"
        created = self.creation()
        try:
            experiment = Experiment.parse(path.read_bytes(), where="experiment.json")
        except FileNotFoundError:
            raise NotFoundError(
                what=f"{self.run_id} has no experiment.json",
                where=str(path),
                remedy="restore it from a copy or create the run anew",
            ) from None
        if experiment.config_digest != created.data["config_digest"]:
            raise IntegrityError(
                what=f"experiment.json was changed after {self.run_id} was created",
                where=str(path),
                remedy="restore it from a copy, or create a new run with the changed settings",
            )
        return experiment
