"""The port of a log of what happens to one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from crucible_ir.events import Event

__all__ = ["EventSink"]


@runtime_checkable
class EventSink(Protocol):
    """Events of one run in the order of their ``seq``, which is contiguous from 1; time plays no part."""

    @property
    def run_id(self) -> str:
        """The run whose events these are."""
        ...

    def append(self, type: str, data: Mapping[str, Any] | None = None) -> Event:
        """Add an event and return it as it is kept (redacted, numbered, dated).

        Raises:
            DataError: ``data`` holds a value that JSON does not know.
            StorageError: nothing more can be written; what was there before is intact.
            ConflictError: another process holds the log for longer than the waiting limit.
        """
        ...

    def read(self, after: int = 0, limit: int | None = None) -> list[Event]:
        """Complete events with ``seq > after``, at most ``limit`` of them.

        Raises:
            IntegrityError: a stored event cannot be read.
        """
        ...

    def close(self) -> None:
        """Free what the sink holds; closing twice is harmless."""
        ...
