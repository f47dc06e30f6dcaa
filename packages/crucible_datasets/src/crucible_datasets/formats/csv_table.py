"""CSV with a header: every cell is text."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from crucible_datasets.formats.lines import MAX_LINE_BYTES, decode_line, read_lines
from crucible_ir import DataError, Row

__all__ = ["read_csv"]


def _header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    for index, name in enumerate(names):
        if not name:
            raise DataError(
                what=f"column {index + 1} has no name",
                where=f"{path}, line 1",
                remedy="give every column a name in the first line",
            )
        if name in names[:index]:
            raise DataError(
                what=f"two columns are named {name!r}", where=f"{path}, line 1", remedy="rename one"
            )
    return names


def read_csv(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, Row]]:
    """Number of the line where it begins, and cells by column name, of each row that is not blank.

    Comma-separated, quoted with ``"``; a quoted cell may hold line ends. Values stay text: ``"7"`` is not 7, and
    an empty cell is ``""``. A row has exactly as many cells as the header.

    Raises:
        DataError: a missing or repeated column name, a row with too few or too many cells, an open quote, bytes
            that are not UTF-8 or a line longer than ``max_line_bytes``; each with its line.
        NotFoundError: no such file.
    """
    lines = (
        decode_line(line, number, path) for number, line in read_lines(path, max_line_bytes=max_line_bytes)
    )
    previous_limit = csv.field_size_limit(max_line_bytes)
    begins = 1
    names: list[str] | None = None
    reader = csv.reader(lines, strict=True)
    try:
        for cells in reader:
            number, begins = begins, reader.line_num + 1
            if not cells:
                continue
            if names is None:
                names = _header(cells, path)
                continue
            if len(cells) != len(names):
                raise DataError(
                    what=f"{len(cells)} cells, where the header has {len(names)}",
                    where=f"{path}, line {number}",
                    remedy="quote cells that hold a comma, or repair that line",
                )
            yield number, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            what=f"not CSV: {error}",
            where=f"{path}, line {begins}",
            remedy='close the quote that opens there; a quote within a cell is written ""',
        ) from error
    finally:
        csv.field_size_limit(previous_limit)
