"""A SQLite view of all runs, kept up from the growth of their logs; deleting it loses nothing."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from crucible_ir import Event, IntegrityError, RunRecord
from crucible_kitchen.runs.home import is_run_id
from crucible_kitchen.runs.projection import project

__all__ = ["DamagedRun", "Listing", "RunIndex"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY,
    created_at TEXT NOT NULL,
    state TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    record TEXT,
    damage TEXT
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_BUSY_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedRun:
    """A run whose log cannot be read, and why."""

    run_id: str
    damage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Every run, newest first, as the logs tell it."""

    records: tuple[RunRecord, ...]
    damaged: tuple[DamagedRun, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    run_id: str
    bytes: int
    record: RunRecord | None = None
    damage: str | None = None


def _new_events(path: Path, offset: int) -> tuple[list[Event], int]:
    """Complete events from byte ``offset`` on, and the byte after the last of them."""
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    end = data.rfind(b"\n") + 1
    try:
        events = [Event.model_validate_json(line) for line in data[:end].splitlines()]
    except ValueError as error:
        raise IntegrityError(
            what="a line is not an event", where=str(path), remedy="restore the file from a copy"
        ) from error
    return events, offset + end


def _fold(folder: Path, known: _Row | None) -> _Row | None:
    """The row of ``folder`` after what was appended since ``known``; None when it has no log yet."""
    path = folder / "events.jsonl"
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    if known is not None and known.bytes == size:
        return known
    usable = known if known is not None and known.record is not None and known.bytes < size else None
    start = usable.bytes if usable else 0
    try:
        events, end = _new_events(path, start)
        record = project(events, usable.record if usable else None)
    except IntegrityError as error:
        return _Row(run_id=folder.name, bytes=size, damage=str(error))
    except FileNotFoundError:
        return None
    return _Row(run_id=folder.name, bytes=end, record=record) if record is not None else None


class RunIndex:
    """The view. ``listing`` brings it up to date first: one ``stat`` per run, one read per log that grew."""

    def __init__(self, path: Path, runs: Path) -> None:
        self._path = path
        self._runs = runs

    def listing(self) -> Listing:
        """All runs, newest first.

        A view that is damaged, locked or cannot be written is left aside: the logs are read instead.
        """
        rows = self._with_database(self._synchronised)
        records = [row.record for row in rows if row.record is not None]
        records.sort(key=lambda record: (record.created_at, record.run_id), reverse=True)
        damaged = [DamagedRun(run_id=row.run_id, damage=row.damage) for row in rows if row.damage]
        return Listing(records=tuple(records), damaged=tuple(sorted(damaged, key=lambda item: item.run_id)))

    def rebuild(self) -> Listing:
        """Throw the view away and make it anew from the logs."""
        self._discard()
        return self.listing()

    def _with_database(self, use: Callable[[sqlite3.Connection], list[_Row]]) -> list[_Row]:
        try:
            with self._open(str(self._path)) as database:
                return use(database)
        except sqlite3.OperationalError:
            pass
        except sqlite3.DatabaseError:
            self._discard()
        with self._open(":memory:") as database:
            return use(database)

    def _discard(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _open(self, path: str) -> Iterator[sqlite3.Connection]:
        if path != ":memory:" and not self._path.parent.is_dir():
            path = ":memory:"
        database = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_SCHEMA)
            yield database
        finally:
            database.close()

    def _synchronised(self, database: sqlite3.Connection) -> list[_Row]:
        known = {row.run_id: row for row in self._stored(database)}
        rows: list[_Row] = []
        changed: list[_Row] = []
        for folder in self._folders():
            before = known.pop(folder.name, None)
            row = _fold(folder, before)
            if row is None:
                continue
            rows.append(row)
            if row is not before:
                changed.append(row)
        if changed or known:
            self._store(database, changed, gone=list(known))
        return rows

    def _folders(self) -> list[Path]:
        try:
            return sorted(path for path in self._runs.iterdir() if is_run_id(path.name))
        except FileNotFoundError:
            return []

    @staticmethod
    def _stored(database: sqlite3.Connection) -> list[_Row]:
        rows = []
        for run_id, size, record, damage in database.execute(
            "SELECT run_id, bytes, record, damage FROM runs ORDER BY run_id"
        ):
            try:
                parsed = RunRecord.model_validate_json(record) if record is not None else None
            except ValueError:
                continue  # written by another version: the log is read again
            rows.append(_Row(run_id=run_id, bytes=size, record=parsed, damage=damage))
        return rows

    @staticmethod
    def _store(database: sqlite3.Connection, changed: list[_Row], *, gone: list[str]) -> None:
        values = [
            (
                row.run_id,
                row.record.created_at.isoformat() if row.record else "",
                str(row.record.state) if row.record else "damaged",
                row.bytes,
                row.record.model_dump_json() if row.record else None,
                row.damage,
            )
            for row in changed
        ]
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?)", values)
        database.executemany("DELETE FROM runs WHERE run_id = ?", [(run_id,) for run_id in gone])
        database.execute("COMMIT")
