"""JSON Lines: one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from crucible_datasets.formats.json_values import JsonRefused, kind_of, parse_json
from crucible_datasets.formats.lines import MAX_LINE_BYTES, decode_line, read_lines
from crucible_ir import DataError, Row

__all__ = ["read_jsonl"]

_SHOWN = 60


def _shown(text: str, column: int) -> str:
    """What stands around ``column`` (from 1), short enough for a sentence."""
    start = max(0, column - 1 - _SHOWN // 3)
    part = text[start : start + _SHOWN]
    return ("…" if start else "") + part + ("…" if start + _SHOWN < len(text) else "")


def _row(text: str, number: int, path: Path) -> Row:
    where = f"{path}, line {number}"
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text)
        problem = "the line ends in the middle of a value" if at_end else error.msg
        raise DataError(
            what=f"not JSON: {problem}; there stands {_shown(text, error.pos + 1)!r}",
            where=f"{where}, column {error.pos + 1}",
            remedy="repair or delete that line; each line is one JSON object",
        ) from error
    except JsonRefused as error:
        raise DataError(
            what=f"{error}; the line begins {_shown(text, 1)!r}",
            where=where,
            remedy="repair or delete that line",
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            what=f"{kind_of(value)}, where an object was expected; there stands {_shown(text, 1)!r}",
            where=where,
            remedy='write each row as an object, for example {"prompt": "…", "completion": "…"}',
        )
    return value


def read_jsonl(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, Row]]:
    r"""Line number (from 1) and object of each line that is not blank.

    ``\r\n`` and ``\n`` both end a line; a BOM is left out; lines of white space are counted and passed over.

    Raises:
        DataError: a line that is no JSON object (named with line, column and what stands there), that names a
            key twice, holds NaN or half a surrogate pair, is not UTF-8, or is longer than ``max_line_bytes``.
        NotFoundError: no such file.
    """
    for number, line in read_lines(path, max_line_bytes=max_line_bytes):
        text = decode_line(line, number, path).strip(" \t\r\n")
        if text:
            yield number, _row(text, number, path)
