"""Event sinks that write no file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from crucible_ir.events import Event
from crucible_telemetry.events.log import utc_now
from crucible_telemetry.plain_json import plain_json

__all__ = ["MemoryEventSink", "NoopEventSink"]


class NoopEventSink:
    """Numbers and returns events, and forgets them; fits ``EventSink``."""

    def __init__(self, *, run_id: str, clock: Callable[[], datetime] = utc_now) -> None:
        self._run_id = run_id
        self._clock = clock
        self._mutex = threading.Lock()
        self._seq = 0

    @property
    def run_id(self) -> str:
        """The run whose events these are."""
        return self._run_id

    def append(self, type: str, data: Mapping[str, Any] | None = None) -> Event:
        """The event as it would have been kept.

        Raises:
            DataError: ``data`` holds a value that JSON does not know.
        """
        body = plain_json(data or {})
        with self._mutex:
            self._seq += 1
            event = Event(
                seq=self._seq,
                run_id=self._run_id,
                type=str(type),
                at=self._clock().astimezone(UTC),
                data=body,
            )
            self._keep(event)
        return event

    def _keep(self, event: Event) -> None:
        """Forget it."""

    def read(self, after: int = 0, limit: int | None = None) -> list[Event]:
        """Nothing, whatever is asked."""
        return []

    def close(self) -> None:
        """Do nothing."""


class MemoryEventSink(NoopEventSink):
    """Keeps events in a list; fits ``EventSink``."""

    def __init__(self, *, run_id: str, clock: Callable[[], datetime] = utc_now) -> None:
        super().__init__(run_id=run_id, clock=clock)
        self._events: list[Event] = []

    def _keep(self, event: Event) -> None:
        self._events.append(event)

    def read(self, after: int = 0, limit: int | None = None) -> list[Event]:
        """Events with ``seq > after`` in order, at most ``limit``."""
        start = max(after, 0)
        return self._events[start : None if limit is None else start + max(limit, 0)]
