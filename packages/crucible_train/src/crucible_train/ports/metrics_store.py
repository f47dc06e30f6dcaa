"""The port of a store of metrics: rows of numbers per run and step."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from crucible_ir.events import MetricRow

__all__ = ["MetricsStore"]


@runtime_checkable
class MetricsStore(Protocol):
    """Rows of each run, in the order in which they were logged.

    A row that ``log`` took outlives the end of the process, however it ends; ``flush`` makes it outlive the
    end of the machine. Adapters take keyword options; those that write files take ``root``, the runs folder.
    """

    def log(self, run_id: str, row: MetricRow) -> None:
        """Add one row. NaN and infinities are kept as they are; floats come back bit for bit.

        Raises:
            StorageError: nothing more can be written; the rows before are intact.
        """
        ...

    def flush(self) -> None:
        """Return once all rows logged so far are on durable storage."""
        ...

    def read(self, run_id: str, after_step: int | None = None) -> list[MetricRow]:
        """Rows of the run in logged order, those with ``step > after_step`` alone if that is given.

        A run without rows gives an empty list.

        Raises:
            IntegrityError: a stored row cannot be read.
        """
        ...

    def position(self, run_id: str) -> int:
        """Where the run's rows end now: a number for ``truncate``, to keep with a checkpoint."""
        ...

    def truncate(self, run_id: str, position: int) -> None:
        """Drop exactly the rows that were logged after ``position`` was taken.

        Raises:
            IntegrityError: fewer rows are there than there were at ``position``.
        """
        ...

    def close(self) -> None:
        """Flush and free what the store holds; closing twice is harmless."""
        ...
