"""Metrics as one JSON object per step, in the run's own folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from crucible_ir.errors import IntegrityError
from crucible_ir.events import MetricRow
from crucible_telemetry.append_file import AppendFile
from crucible_telemetry.metrics.rows import later_than, row_of, row_text, run_folder

__all__ = ["JsonlMetricsStore"]


class JsonlMetricsStore:
    """``root/<run_id>/metrics.jsonl``; fits ``MetricsStore``.

    One line per row: ``{"step":3,"time_s":1.2,"metrics":{"train/nll":2.5}}``. Each row is one write, so that
    it survives the end of the process. NaN and infinities are the words ``"NaN"``, ``"Infinity"``,
    ``"-Infinity"``. It expects one writing process per run (others may read). A last line that was never
    finished is cut off when the run is written to again.
    """

    def __init__(self, *, root: Path, write: Callable[[int, bytes], int] = os.write) -> None:
        self.root = Path(root)
        self._write = write
        self._files: dict[str, AppendFile] = {}
        self._counted: dict[str, tuple[int, int]] = {}
        self._mutex = threading.Lock()

    def path(self, run_id: str) -> Path:
        """The file of one run."""
        return run_folder(self.root, run_id) / "metrics.jsonl"

    def log(self, run_id: str, row: MetricRow) -> None:
        """Add one row.

        Raises:
            StorageError: the disk is full or read-only; the rows before are intact.
        """
        line = row_text(row).encode() + b"\n"
        with self._mutex:
            self._file(run_id).append(line)

    def flush(self) -> None:
        """Return once all rows are on durable storage."""
        with self._mutex:
            for file in self._files.values():
                file.sync()

    def read(self, run_id: str, after_step: int | None = None) -> list[MetricRow]:
        """Rows in logged order; an unfinished last line is left out.

        Raises:
            IntegrityError: a line is not a row; names the line.
        """
        path = self.path(run_id)
        try:
            lines = path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        rows = [row_of(line, where=f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
        return later_than(rows, after_step)

    def position(self, run_id: str) -> int:
        """Number of complete rows; only what was added since the last call is counted."""
        path = self.path(run_id)
        with self._mutex:
            size, rows = self._counted.get(run_id, (0, 0))
            try:
                stream = path.open("rb")
            except FileNotFoundError:
                return 0
            with stream:
                stream.seek(size)
                for line in stream:
                    if line.endswith(b"\n"):
                        size, rows = size + len(line), rows + 1
            self._counted[run_id] = (size, rows)
            return rows

    def truncate(self, run_id: str, position: int) -> None:
        """Drop the rows after the first ``position``.

        Raises:
            IntegrityError: fewer rows are there.
            StorageError: the file cannot be changed.
        """
        path = self.path(run_id)
        with self._mutex:
            size = rows = 0
            if path.exists():
                with path.open("rb") as stream:
                    for line in stream:
                        if rows == position or not line.endswith(b"\n"):
                            break
                        size, rows = size + len(line), rows + 1
            if rows < position:
                raise IntegrityError(
                    what=f"holds {rows} rows, the checkpoint was taken after {position}",
                    where=str(path),
                    remedy="restore the file, or resume from an earlier checkpoint",
                )
            if path.exists():
                file = self._file(run_id)
                file.cut(size)
                file.sync()
            self._counted[run_id] = (size, rows)

    def close(self) -> None:
        """Flush and close the files."""
        self.flush()
        with self._mutex:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def _file(self, run_id: str) -> AppendFile:
        file = self._files.get(run_id)
        if file is None:
            file = AppendFile(self.path(run_id), write=self._write)
            size = file.size()
            end, _ = file.last_line(size)
            if end < size:
                file.cut(end)
            self._files[run_id] = file
        return file
