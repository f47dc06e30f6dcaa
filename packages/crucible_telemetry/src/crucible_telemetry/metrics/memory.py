"""Metrics stores that write no file."""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path

from crucible_ir.errors import IntegrityError
from crucible_ir.events import MetricRow
from crucible_telemetry.metrics.rows import check_run_id, later_than

__all__ = ["MemoryMetricsStore", "NoopMetricsStore"]


class NoopMetricsStore:
    """Forgets everything; fits ``MetricsStore``. ``root`` is taken for the sake of manifests and not used."""

    def __init__(self, *, root: Path | None = None) -> None:
        self.root = root

    def log(self, run_id: str, row: MetricRow) -> None:
        """Forget the row."""
        check_run_id(run_id)

    def flush(self) -> None:
        """Do nothing."""

    def read(self, run_id: str, after_step: int | None = None) -> list[MetricRow]:
        """Nothing."""
        return []

    def position(self, run_id: str) -> int:
        """Always 0."""
        return 0

    def truncate(self, run_id: str, position: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class MemoryMetricsStore:
    """Keeps rows as long as it lives; fits ``MetricsStore``. ``root`` is taken and not used."""

    def __init__(self, *, root: Path | None = None) -> None:
        self.root = root
        self._rows: defaultdict[str, list[MetricRow]] = defaultdict(list)
        self._mutex = threading.Lock()

    def log(self, run_id: str, row: MetricRow) -> None:
        """Add one row."""
        with self._mutex:
            self._rows[check_run_id(run_id)].append(row)

    def flush(self) -> None:
        """Do nothing."""

    def read(self, run_id: str, after_step: int | None = None) -> list[MetricRow]:
        """Rows in logged order."""
        with self._mutex:
            return later_than(self._rows[run_id], after_step)

    def position(self, run_id: str) -> int:
        """Number of rows."""
        with self._mutex:
            return len(self._rows[run_id])

    def truncate(self, run_id: str, position: int) -> None:
        """Drop the rows after the first ``position``.

        Raises:
            IntegrityError: fewer rows are there.
        """
        with self._mutex:
            rows = self._rows[run_id]
            if len(rows) < position:
                raise IntegrityError(
                    what=f"holds {len(rows)} rows of {run_id}, the checkpoint was taken after {position}",
                    where="memory",
                    remedy="resume in the process that logged them, or choose a store that writes files",
                )
            del rows[position:]

    def close(self) -> None:
        """Do nothing; the rows stay readable."""
