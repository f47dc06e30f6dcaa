"""Rows as read, with the place each came from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crucible_datasets.formats import MAX_LINE_BYTES, format_of, read_rows
from crucible_ir import DatasetRef, Row

__all__ = ["HeldRows", "PlacedRow", "SourceRows", "read_files"]


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A row with the file (or name) and the line or row number where it stands."""

    label: str
    number: int
    row: Row

    @property
    def where(self) -> str:
        """The place, for a message."""
        return f"{self.label} {self.number}"


class SourceRows(Protocol):
    """Rows of a whole source at random access; ``Sequence`` of rows plus the place of each."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __iter__(self) -> Iterator[Row]:
        """Every row in the order of the source."""
        ...

    def __getitem__(self, position: int, /) -> Row:
        """The row at a position from 0."""
        ...

    def locate(self, position: int) -> str:
        """Where the row at ``position`` stands, for a message."""
        ...


class HeldRows:
    """Rows held in memory, with the place of each."""

    def __init__(self, rows: Sequence[Row], *, label: str = "row") -> None:
        self._rows = rows
        self._numbers: Sequence[int] = range(1, len(rows) + 1)
        self._starts = [0]
        self._labels = [label]

    @classmethod
    def of(cls, placed: Iterable[PlacedRow]) -> HeldRows:
        """Read all of ``placed`` into memory."""
        rows: list[Row] = []
        numbers: list[int] = []
        starts: list[int] = []
        labels: list[str] = []
        for item in placed:
            if not labels or labels[-1] is not item.label:
                labels.append(item.label)
                starts.append(len(rows))
            rows.append(item.row)
            numbers.append(item.number)
        held = cls(rows)
        if labels:
            held._numbers, held._starts, held._labels = numbers, starts, labels
        return held

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __getitem__(self, position: int, /) -> Row:
        return self._rows[position]

    def locate(self, position: int) -> str:
        """``path, line N`` of a file of lines; ``path, row N`` otherwise."""
        label = self._labels[bisect_right(self._starts, position) - 1]
        return f"{label} {self._numbers[position]}"


def read_files(
    files: Iterable[Path], ref: DatasetRef, *, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[PlacedRow]:
    """Rows of several files, one after the other; memory holds one row (JSON documents: one file).

    Raises:
        DataError: a row that cannot be read, named with file and line.
        ConfigError: a format that is not read here.
    """
    for path in files:
        label = f"{path}, row" if format_of(path, ref) == "json" else f"{path}, line"
        for number, row in read_rows(path, ref, max_line_bytes=max_line_bytes):
            yield PlacedRow(label, number, row)
