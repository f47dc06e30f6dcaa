"""How a row of metrics stands on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crucible_ir.errors import ConfigError, IntegrityError
from crucible_ir.events import MetricRow
from crucible_telemetry.plain_json import float_of, json_number, plain_json

__all__ = ["check_run_id", "later_than", "row_of", "row_text", "run_folder"]


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def check_run_id(run_id: str) -> str:
    """``run_id``, if it is one plain name of a folder.

    Raises:
        ConfigError: it is empty, ``.`` or ``..``, or holds a separator.
    """
    if run_id in ("", ".", "..") or "/" in run_id or "\\" in run_id or "\0" in run_id:
        raise ConfigError(
            what=f"{run_id!r} is not the id of a run", where="run_id", remedy="give one name without slashes"
        )
    return run_id


def row_text(row: MetricRow) -> str:
    """``{"step":…,"time_s":…,"metrics":{…}}`` without white space; floats in their shortest exact form."""
    metrics = {plain_json(name): json_number(value) for name, value in row.metrics.items()}
    record = {"step": row.step, "time_s": row.time_s, "metrics": metrics}
    return _ENCODER.encode(record)


def row_of(text: str | bytes, *, where: str) -> MetricRow:
    """The row that ``row_text`` wrote.

    Raises:
        IntegrityError: it is not one; names ``where``.
    """
    try:
        record: Any = json.loads(text)
        metrics = {name: float_of(value) for name, value in record.pop("metrics").items()}
        return MetricRow(**record, metrics=metrics)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(
            what="is not a row of metrics",
            where=where,
            remedy="restore the file, or resume from a checkpoint",
        ) from error


def later_than(rows: Iterable[MetricRow], after_step: int | None) -> list[MetricRow]:
    """Rows with ``step > after_step``; all if that is None."""
    return [row for row in rows if after_step is None or row.step > after_step]


def run_folder(root: Path, run_id: str) -> Path:
    """The folder of a run under the runs folder ``root``."""
    return root / check_run_id(run_id)
