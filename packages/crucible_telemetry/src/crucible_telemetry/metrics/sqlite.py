"""Metrics of all runs in one SQLite file."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crucible_ir.errors import ConflictError, CrucibleError, IntegrityError, StorageError
from crucible_ir.events import MetricRow
from crucible_telemetry.metrics.rows import check_run_id, later_than, row_of, row_text

__all__ = ["SqliteMetricsStore"]

_PAUSE_S = 0.005
_SCHEMA = """
CREATE TABLE IF NOT EXISTS metric_rows (
    run_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    step INTEGER NOT NULL,
    row TEXT NOT NULL,
    PRIMARY KEY (run_id, position)
) WITHOUT ROWID
"""


class SqliteMetricsStore:
    """``root/metrics.sqlite``; fits ``MetricsStore``.

    Write-ahead log: a committed row survives the end of the process, ``flush`` makes it survive the end of
    the machine. ``batch_rows`` rows share one commit; 1, the default, loses nothing when the process is killed,
    a greater number is faster and may lose up to that many. Several processes may write at once.
    """

    def __init__(self, *, root: Path, batch_rows: int = 1, lock_timeout_s: float = 10.0) -> None:
        self.path = Path(root) / "metrics.sqlite"
        self._batch_rows = batch_rows
        self._lock_timeout_s = lock_timeout_s
        self._waiting: list[tuple[str, MetricRow]] = []
        self._mutex = threading.RLock()
        self._db: sqlite3.Connection | None = None

    def log(self, run_id: str, row: MetricRow) -> None:
        """Add one row; it is committed with the next full batch. A row that was refused is not kept.

        Raises:
            StorageError: the disk is full or read-only; committed rows are intact.
            ConflictError: another process held the file too long.
        """
        check_run_id(run_id)
        with self._mutex:
            self._waiting.append((run_id, row))
            if len(self._waiting) < self._batch_rows:
                return
            try:
                self._commit()
            except CrucibleError:
                self._waiting.pop()
                raise

    def flush(self) -> None:
        """Commit, and return once all rows are in the main file on durable storage."""
        with self._mutex:
            self._commit()
            if self._db is not None:
                with self._errors():
                    self._db.execute("PRAGMA wal_checkpoint(FULL)").fetchall()

    def read(self, run_id: str, after_step: int | None = None) -> list[MetricRow]:
        """Rows in logged order.

        Raises:
            IntegrityError: a stored row or the file cannot be read.
        """
        with self._mutex, self._errors():
            self._commit()
            found = self._open().execute(
                "SELECT position, row FROM metric_rows WHERE run_id = ? AND step > ? ORDER BY position",
                (check_run_id(run_id), -1 if after_step is None else after_step),
            )
            rows = [row_of(text, where=f"{self.path}, {run_id} row {number}") for number, text in found]
        return later_than(rows, after_step)

    def position(self, run_id: str) -> int:
        """Number of rows."""
        with self._mutex, self._errors():
            self._commit()
            return self._next(check_run_id(run_id))

    def truncate(self, run_id: str, position: int) -> None:
        """Drop the rows after the first ``position``.

        Raises:
            IntegrityError: fewer rows are there.
        """
        with self._mutex, self._errors():
            self._commit()
            rows = self._next(check_run_id(run_id))
            if rows < position:
                raise IntegrityError(
                    what=f"holds {rows} rows of {run_id}, the checkpoint was taken after {position}",
                    where=str(self.path),
                    remedy="restore the file, or resume from an earlier checkpoint",
                )
            self._open().execute(
                "DELETE FROM metric_rows WHERE run_id = ? AND position >= ?", (run_id, position)
            )

    def close(self) -> None:
        """Flush and close the file; the next use opens it again."""
        with self._mutex:
            try:
                self.flush()
            finally:
                if self._db is not None:
                    self._db.close()
                    self._db = None

    def _next(self, run_id: str) -> int:
        query = "SELECT coalesce(max(position) + 1, 0) FROM metric_rows WHERE run_id = ?"
        return int(self._open().execute(query, (run_id,)).fetchone()[0])

    def _commit(self) -> None:
        if not self._waiting:
            return
        with self._errors():
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                for run_id, row in self._waiting:
                    db.execute(
                        "INSERT INTO metric_rows VALUES (?, ?, ?, ?)",
                        (run_id, self._next(run_id), row.step, row_text(row)),
                    )
                db.execute("COMMIT")
            except sqlite3.Error:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            self._waiting.clear()

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    what=f"cannot be made: {error.strerror or error}",
                    where=str(self.path.parent),
                    remedy="make the folder writable",
                ) from error
            deadline = time.monotonic() + self._lock_timeout_s
            while (db := self._connect(deadline)) is None:
                time.sleep(_PAUSE_S)
            self._db = db
        return self._db

    def _connect(self, deadline: float) -> sqlite3.Connection | None:
        """The file, set up; None while another process sets it up, for which SQLite itself does not wait."""
        db = sqlite3.connect(
            self.path, timeout=self._lock_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA wal_autocheckpoint = 8000").fetchall()
            db.execute(_SCHEMA)
        except sqlite3.Error as error:
            db.close()
            if "locked" in str(error) and time.monotonic() < deadline:
                return None
            raise
        return db

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise ConflictError(
                    what=f"another process has held it for more than {self._lock_timeout_s:g} s",
                    where=str(self.path),
                    remedy="end that process, or wait and try again",
                ) from error
            if isinstance(error, sqlite3.OperationalError):
                raise StorageError(
                    what=f"cannot be used: {text}",
                    where=str(self.path),
                    remedy="free space or make the folder writable; committed rows are intact",
                ) from error
            raise IntegrityError(
                what=f"is damaged: {text}", where=str(self.path), remedy="restore the file from a copy"
            ) from error
