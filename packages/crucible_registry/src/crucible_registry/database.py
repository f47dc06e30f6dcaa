"""The registry's SQLite file: tables, transactions, and errors in the one tree."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crucible_ir.errors import ConflictError, IntegrityError, StorageError

__all__ = ["Database"]

_PAUSE_S = 0.005
_TABLES = """
CREATE TABLE IF NOT EXISTS refs (
    node INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    digest TEXT,
    produced_by TEXT,
    version TEXT,
    stage TEXT,
    identity TEXT NOT NULL,
    body TEXT NOT NULL,
    kept_at TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_identity ON refs (kind, id, identity);
CREATE UNIQUE INDEX IF NOT EXISTS one_version ON refs (id, version) WHERE kind = 'model';
CREATE INDEX IF NOT EXISTS by_producer ON refs (produced_by);
CREATE TABLE IF NOT EXISTS edges (
    child INTEGER NOT NULL REFERENCES refs (node),
    place INTEGER NOT NULL,
    name TEXT NOT NULL,
    parent INTEGER REFERENCES refs (node),
    PRIMARY KEY (child, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_parent ON edges (parent);
CREATE INDEX IF NOT EXISTS by_missing_parent ON edges (name) WHERE parent IS NULL;
CREATE TABLE IF NOT EXISTS aliases (
    id TEXT NOT NULL,
    alias TEXT NOT NULL,
    version TEXT NOT NULL,
    PRIMARY KEY (id, alias)
) WITHOUT ROWID;
"""


class Database:
    """One file, opened at first use; shared by threads one at a time and by processes through SQLite's locks."""

    def __init__(self, path: Path, *, lock_timeout_s: float) -> None:
        self.path = path
        self._lock_timeout_s = lock_timeout_s
        self._mutex = threading.RLock()
        self._db: sqlite3.Connection | None = None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for queries that belong together."""
        with self._mutex, self._errors():
            yield self._open()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other process writes within; all of it is kept or nothing.

        Raises:
            ConflictError: another process held the file too long.
            StorageError: the disk is full or read-only.
            IntegrityError: the file is damaged.
        """
        with self._mutex, self._errors():
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._mutex:
            if self._db is not None:
                self._db.close()
                self._db = None

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
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(_TABLES)
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
                    remedy="free space or make the folder writable; what was kept before is intact",
                ) from error
            raise IntegrityError(
                what=f"is damaged: {text}", where=str(self.path), remedy="restore the file from a copy"
            ) from error
