"""Rows of metrics and events as files for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from crucible_ir.errors import StorageError
from crucible_ir.events import Event, MetricRow
from crucible_telemetry.metrics.rows import row_text
from crucible_telemetry.plain_json import json_line

__all__ = ["csv_text", "events_to_csv", "events_to_jsonl", "metrics_to_csv", "metrics_to_jsonl"]


def csv_text(records: Iterable[Mapping[str, Any]]) -> str:
    """Comma-separated text (RFC 4180): the header is every key of any record, in order of first sight.

    Numbers are written so that they read back exactly; nested values are JSON; a missing value is empty.
    """
    rows = list(records)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return stream.getvalue()


def metrics_to_csv(rows: Iterable[MetricRow], path: Path) -> Path:
    """One line per row: step, time_s, then every metric that any row has.

    Raises:
        StorageError: the file cannot be written.
    """
    return _write(path, csv_text({"step": row.step, "time_s": row.time_s, **row.metrics} for row in rows))


def metrics_to_jsonl(rows: Iterable[MetricRow], path: Path) -> Path:
    """One object per line, as ``JsonlMetricsStore`` writes them.

    Raises:
        StorageError: the file cannot be written.
    """
    return _write(path, "".join(row_text(row) + "\n" for row in rows))


def events_to_csv(events: Iterable[Event], path: Path) -> Path:
    """One line per event: seq, run_id, type, at, then the data's keys as ``data.<key>``.

    Raises:
        StorageError: the file cannot be written.
    """
    return _write(
        path,
        csv_text(
            {
                "seq": event.seq,
                "run_id": event.run_id,
                "type": event.type,
                "at": event.at.isoformat(),
                **{f"data.{key}": value for key, value in event.data.items()},
            }
            for event in events
        ),
    )


def events_to_jsonl(events: Iterable[Event], path: Path) -> Path:
    """One event per line.

    Raises:
        StorageError: the file cannot be written.
    """
    return _write(path, "".join(json_line(event.model_dump(mode="json")).decode() for event in events))


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case float():
            return repr(value)
        case int():
            return str(value)
    return json.dumps(value, ensure_ascii=False)


def _write(path: Path, text: str) -> Path:
    """Write beside the target and put it in place whole."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            stream.write(text)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(
            what=f"cannot be written: {error.strerror or error}",
            where=str(path),
            remedy="free space or choose another folder",
        ) from error
    return path
