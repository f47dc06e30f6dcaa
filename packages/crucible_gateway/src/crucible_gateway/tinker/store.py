"""The server's state in one SQLite file: sessions, models, samplers, checkpoints, and requests that a restart repeats.

A row that a method wrote outlives the end of the process, however it ends. What a client was promised is written
before the promise is given.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crucible_gateway.tinker.promises import Form
from crucible_ir import StorageError

__all__ = ["Kept", "Request", "StateStore", "Table"]

Table = Literal["sessions", "models", "samplers", "checkpoints"]

_TABLES = """
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL, id TEXT NOT NULL, parent TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_parent ON records (kind, parent);
CREATE TABLE IF NOT EXISTS requests (
    model_id TEXT NOT NULL, seq INTEGER NOT NULL, operation TEXT NOT NULL, media TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (model_id, seq)
);
CREATE TABLE IF NOT EXISTS results (
    model_id TEXT NOT NULL, seq INTEGER NOT NULL, form TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (model_id, seq)
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A training request as it came."""

    seq: int
    operation: str
    media: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A result as it is told: its form (see ``promises.Form``) and bytes."""

    seq: int
    form: Form
    body: bytes


class StateStore:
    """Records are JSON objects by kind and id, each under a parent; requests and results belong to models."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = threading.Lock()
            self._db = sqlite3.connect(
                folder / "gateway.sqlite", check_same_thread=False, isolation_level=None, timeout=1.0
            )
            self._db.execute(
                "PRAGMA locking_mode=EXCLUSIVE"
            )  # before the log is touched: then even reading locks
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            used = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
            raise StorageError(
                what="another server uses this state"
                if used
                else f"the server's state cannot be opened ({error})",
                where=str(folder),
                remedy="end the server that uses this folder, or give another with --state"
                if used
                else "give a folder of the server's own that can be written with --state",
            ) from error
        self.folder = folder

    # --- records -----------------------------------------------------------------------------------------------

    def put(self, kind: Table, id: str, parent: str, data: Mapping[str, Any]) -> None:
        """Keep a record in place of the one before."""
        with self._writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", (kind, id, parent, json.dumps(data))
            )

    def drop(self, kind: Table, id: str) -> None:
        """Remove a record; one that is not there is no error."""
        with self._writing() as db:
            db.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, id))

    def records(self, kind: Table) -> list[tuple[str, dict[str, Any]]]:
        """All records of a kind as (id, data)."""
        with self._lock:
            rows = self._db.execute("SELECT id, data FROM records WHERE kind = ? ORDER BY id", (kind,))
            return [(id, json.loads(data)) for id, data in rows]

    def fact(self, name: str, value: str) -> str:
        """The value kept under ``name``; ``value`` is kept where there is none."""
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
            row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0])

    # --- requests and results ----------------------------------------------------------------------------------

    def accept(self, model_id: str, request: Request) -> None:
        """Keep a training request until a snapshot covers it."""
        with self._writing() as db:
            db.execute(
                "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?)",
                (model_id, request.seq, request.operation, request.media, request.body),
            )

    def requests(self, model_id: str) -> list[Request]:
        """The requests of a model that no snapshot covers, in the order of their numbers."""
        with self._lock:
            rows = self._db.execute(
                "SELECT seq, operation, media, body FROM requests WHERE model_id = ? ORDER BY seq",
                (model_id,),
            )
            return [Request(seq=s, operation=o, media=m, body=b) for s, o, m, b in rows]

    def cover(
        self, model_id: str, seq: int, record: tuple[str, Mapping[str, Any]], results: Iterable[Kept]
    ) -> None:
        """In one step: the model's record names its snapshot after ``seq``, requests up to there go, results stay.

        ``record`` is the session and the data. Results of a model that are not given are forgotten.
        """
        session, data = record
        with self._writing() as db:
            db.execute("DELETE FROM requests WHERE model_id = ? AND seq <= ?", (model_id, seq))
            db.execute("DELETE FROM results WHERE model_id = ?", (model_id,))
            db.executemany(
                "INSERT INTO results VALUES (?, ?, ?, ?)",
                [(model_id, kept.seq, kept.form, kept.body) for kept in results],
            )
            db.execute(
                "INSERT OR REPLACE INTO records VALUES ('models', ?, ?, ?)",
                (model_id, session, json.dumps(data)),
            )

    def results(self, model_id: str) -> list[Kept]:
        """Results of a model that ``cover`` kept."""
        with self._lock:
            rows: Sequence[tuple[int, Form, bytes]] = self._db.execute(
                "SELECT seq, form, body FROM results WHERE model_id = ? ORDER BY seq", (model_id,)
            ).fetchall()
        return [Kept(seq=seq, form=form, body=body) for seq, form, body in rows]

    def keep_result(self, model_id: str, kept: Kept) -> None:
        """Keep one result at once, such as a failure that doing the request again might not have."""
        with self._writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)",
                (model_id, kept.seq, kept.form, kept.body),
            )

    def forget(self, model_id: str) -> None:
        """Drop requests and results of a model that is done with."""
        with self._writing() as db:
            db.execute("DELETE FROM requests WHERE model_id = ?", (model_id,))
            db.execute("DELETE FROM results WHERE model_id = ?", (model_id,))

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nothing is written while the block runs, so that the folder can be copied as it is."""
        with self._lock:
            yield

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:  # a commit that failed leaves it open
                    self._db.execute("ROLLBACK")
                raise StorageError(
                    what=f"the server's state cannot be written ({error})",
                    where=str(self.folder),
                    remedy="free some space on the disk",
                ) from error
