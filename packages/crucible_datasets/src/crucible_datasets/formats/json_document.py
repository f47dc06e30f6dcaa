"""A JSON document that holds all rows: an array of objects, or an object of one such array per split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crucible_datasets.formats.json_values import JsonRefused, kind_of, parse_json
from crucible_datasets.formats.lines import decode_line, read_bytes
from crucible_datasets.formats.names import holds_split, split_of
from crucible_ir import DataError, NotFoundError, Row, nearest

__all__ = ["read_json"]


def _load(path: Path) -> Any:
    data = read_bytes(path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        lines = data.split(b"\n")
        decode_line(lines[number - 1], number, path)
        raise
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        lines_of_json = error.msg == "Extra data"
        raise DataError(
            what=f"not one JSON document: {error.msg}",
            where=f"{path}, line {error.lineno}, column {error.colno}",
            remedy="set format=jsonl if it holds one object per line" if lines_of_json else "repair the file",
        ) from error
    except JsonRefused as error:
        raise DataError(what=str(error), where=str(path), remedy="repair the file") from error


def _rows_of(document: Any, path: Path, split: str) -> list[Any]:
    if isinstance(document, dict) and isinstance(document.get("data"), list) and len(document) == 1:
        document = document["data"]
    if isinstance(document, list):
        splits = {split: document} if holds_split(path, split) else {split_of(path): document}
    elif isinstance(document, dict) and document and all(isinstance(v, list) for v in document.values()):
        splits = document
    else:
        raise DataError(
            what="neither an array of objects nor an object with one array per split",
            where=str(path),
            remedy='write [{"prompt": "…"}, …] or {"train": [{"prompt": "…"}, …]}',
        )
    if split not in splits:
        near = nearest(split, splits)
        raise NotFoundError(
            what=f"no split {split!r}; there are {', '.join(map(repr, splits))}",
            where=str(path),
            remedy=f"did you mean {near!r}?" if near else "name one of them",
        )
    return splits[split]


def read_json(path: Path, *, split: str = "train") -> Iterator[tuple[int, Row]]:
    """Number (from 1) and object of each row. The whole document is read at once.

    Raises:
        DataError: not JSON (line and column named), or not of the two shapes.
        NotFoundError: no such file, or the document has arrays by split and none of this name.
    """
    rows = _rows_of(_load(path), path, split)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(
                what=f"{kind_of(row)}, where an object was expected",
                where=f"{path}, row {number}",
                remedy="write each row as an object",
            )
        yield number, row
