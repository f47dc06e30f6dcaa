"""The append-only log of a run: the truth from which every view is rebuilt."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from crucible_ir.errors import ConfigError, IntegrityError
from crucible_ir.events import Event, EventType
from crucible_telemetry.append_file import AppendFile
from crucible_telemetry.events.seeking import seek_after
from crucible_telemetry.exclusion import exclusive
from crucible_telemetry.plain_json import json_line, plain_json

__all__ = ["RECOVERED", "EventLog", "LogSettings"]

RECOVERED = "log.recovered"
"""Type of the event that says how many bytes of an unfinished line were cut off."""

_MILESTONES = frozenset({EventType.CHECKPOINT_SAVED, EventType.MODEL_REGISTERED, EventType.ARTIFACT_WRITTEN})
_SCHEMA_VERSION = Event.model_fields["schema_version"].default


def utc_now() -> datetime:
    """The present time."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How an event log writes.

    ``fsync``: which events wait for the disk itself (each survives the end of the process in any case):
    all, milestones (``run.*`` without progress, checkpoints, models, artifacts), or none.
    ``lock_timeout_s``: how long to wait for another process that is appending.
    ``write``: stands in for ``os.write`` where a fault is to be made.
    """

    fsync: Literal["always", "milestones", "never"] = "milestones"
    lock_timeout_s: float = 10.0
    write: Callable[[int, bytes], int] = os.write


class EventLog:
    """``events.jsonl`` of one run, one event per line; fits ``EventSink``.

    Any number of processes may append: the file is locked for the time of one line, and the next
    ``seq`` is read from the last line when another process wrote since. Appending costs the same however long the
    log is; ``read(after=…)`` looks only at what follows, also from a fresh object. A last line that was never
    finished (crash, full disk) is cut off by the next append, which keeps the fact as a ``log.recovered`` event.
    ``seq`` is the order of events; ``at`` may go backwards with the clock.

    ``redact`` sees the data, as plain JSON, before anything is written.
    """

    def __init__(
        self,
        path: Path,
        *,
        run_id: str,
        clock: Callable[[], datetime] = utc_now,
        redact: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        settings: LogSettings | None = None,
    ) -> None:
        self.path = Path(path)
        self._run_id = run_id
        self._clock = clock
        self._redact = redact
        self._settings = settings or LogSettings()
        self._file = AppendFile(self.path, write=self._settings.write)
        self._mutex = threading.Lock()
        self._seq = 0
        self._end = -1
        self._latest = (0, 0)

    @property
    def run_id(self) -> str:
        """The run whose log this is."""
        return self._run_id

    def append(self, type: str, data: Mapping[str, Any] | None = None) -> Event:
        """Add an event and return it as written.

        Raises:
            DataError: ``data`` holds a value that JSON does not know.
            StorageError: the disk is full or read-only; the log is as it was.
            ConflictError: another process held the log too long.
            IntegrityError: the log's last line is not an event, or the log got shorter.
        """
        body: Mapping[str, Any] = plain_json(data or {})
        if self._redact is not None:
            body = self._redact(dict(body))
        with self._mutex, self._alone():
            self._catch_up()
            return self._write(type, body)

    def read(self, after: int = 0, limit: int | None = None) -> list[Event]:
        """Complete events with ``seq > after`` in order, at most ``limit``; an unfinished last line is left out.

        Only ``read()`` from the start looks at every line.

        Raises:
            IntegrityError: a line is not an event of this run or is out of sequence; names the line.
        """
        if limit is not None and limit <= 0:
            return []
        with self._mutex:
            seq, offset = self._latest if self._latest[0] <= after else (0, 0)
        events: list[Event] = []
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            return []
        with stream:
            if after > seq:
                seq, offset = seek_after(stream, after, (seq, offset), os.fstat(stream.fileno()).st_size)
            stream.seek(offset)
            for raw in stream:
                if not raw.endswith(b"\n"):
                    break
                seq += 1
                offset += len(raw)
                event = self._parse(raw, seq)
                if event.seq > after:
                    events.append(event)
                    if len(events) == limit:
                        break
        with self._mutex:
            self._latest = (seq, offset)
        return events

    def close(self) -> None:
        """Close the file; closing twice is harmless, and appending opens it again."""
        with self._mutex:
            self._file.close()
            self._end = -1

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with exclusive(self._file.fd, self.path, timeout_s=self._settings.lock_timeout_s):
            yield

    def _catch_up(self) -> None:
        """Learn ``_seq`` and ``_end`` from the file if it is not as this object left it."""
        size = self._file.size()
        if size == self._end:
            return
        if size < self._end:
            raise IntegrityError(
                what=f"the log got shorter ({self._end} bytes before, {size} now)",
                where=str(self.path),
                remedy="restore the file; nothing but the log itself may change it",
            )
        end, line = self._file.last_line(size)
        self._seq = self._parse_last(line).seq if line is not None else 0
        self._end = end
        if end < size:
            self._file.cut(end)
            self._write(RECOVERED, {"line": self._seq + 1, "torn_bytes": size - end})

    def _write(self, type: str, body: Mapping[str, Any]) -> Event:
        at = self._clock().astimezone(UTC)
        event = Event(seq=self._seq + 1, run_id=self._run_id, type=str(type), at=at, data=dict(body))
        line = json_line(
            {
                "schema_version": event.schema_version,
                "seq": event.seq,
                "run_id": event.run_id,
                "type": event.type,
                "at": event.at.isoformat().replace("+00:00", "Z"),
                "data": event.data,
            }
        )
        self._file.append(line, sync=self._syncs(event.type))
        self._seq = event.seq
        self._end += len(line)
        return event

    def _syncs(self, type: str) -> bool:
        match self._settings.fsync:
            case "always":
                return True
            case "never":
                return False
        return type in _MILESTONES or (type.startswith("run.") and type != EventType.RUN_PROGRESS)

    def _parse(self, raw: bytes, number: int) -> Event:
        try:
            event = _event_of(raw)
        except ConfigError as error:
            raise self._corrupt(number, f"is not an event ({error.problems[0]})") from error
        if event.run_id != self._run_id:
            raise self._corrupt(number, f"belongs to run {event.run_id!r}, not {self._run_id!r}")
        if event.seq != number:
            raise self._corrupt(number, f"has seq {event.seq}, expected {number}")
        return event

    def _parse_last(self, raw: bytes) -> Event:
        """The event of the last line; a full read, which names the line, only when that fails."""
        try:
            return _event_of(raw)
        except ConfigError as error:
            with self.path.open("rb") as stream:
                number = sum(1 for line in stream if line.endswith(b"\n"))
            raise self._corrupt(number, f"is not an event ({error.problems[0]})") from error

    def _corrupt(self, number: int, what: str) -> IntegrityError:
        return IntegrityError(
            what=f"line {number} {what}",
            where=str(self.path),
            remedy="restore the file from a copy; the lines before it are intact",
        )


def _event_of(raw: bytes) -> Event:
    """The event of one line; of an older schema version too.

    Raises:
        ConfigError: it is none, with what is wrong.
    """
    try:
        event = Event.model_validate_json(raw)
    except ValueError:
        return Event.parse(raw)
    return event if event.schema_version == _SCHEMA_VERSION else Event.parse(raw)
