r"""Digests of rows, of their order and of what was done to them.

Content: SHA-256 over ``crucible.rows.v1\n`` and then, for each row in the order of the source, its canonical JSON
and ``\n``. It depends on values alone: key order, white space, compression and (JSON Lines, JSON document, Parquet)
format do not matter. CSV cells are text, so ``7`` in a CSV file and ``7`` in a JSON file are different rows.

Order: SHA-256 over ``crucible.order.v1\n`` and the source positions of the delivered rows as little-endian int64.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from crucible_ir import DataError, Row, canonical_json, digest_bytes, digest_of

__all__ = [
    "ContentDigest",
    "canonical_row",
    "content_digest",
    "example_id",
    "order_digest",
    "transform_digest",
]

_CHUNK_ROWS = 512
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False).encode
_SIMPLE = frozenset({str, int, bool, type(None)})


def _sorts_alike(key: object) -> bool:
    """Whether code-point order is UTF-16 order for this key."""
    return type(key) is str and (key.isascii() or max(key) < "\ud800")


def _plain(value: Any) -> bool:
    """Whether the C encoder writes exactly the canonical form: no subclasses, ordinary keys, ordinary floats."""
    kind = type(value)
    if kind in _SIMPLE:
        return True
    if kind is float:
        return 1e-4 <= abs(value) < 1e15 and not value.is_integer()
    if kind is list:
        return all(type(item) in _SIMPLE or _plain(item) for item in value)
    if kind is dict:
        for key, item in value.items():
            if not (type(item) in _SIMPLE or _plain(item)) or not _sorts_alike(key):
                return False
        return True
    return False


def canonical_row(row: Row) -> str:
    """Canonical JSON of a row: ``crucible_ir.canonical_json``, by a faster way where that gives the same text.

    Raises:
        DataError: a value that JSON does not know.
    """
    return _ENCODE(row) if _plain(row) else canonical_json(row)


class ContentDigest:
    """Digest of rows as they come; holds at most 512 of them."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"crucible.rows.v1\n")
        self._pending: list[str] = []
        self.rows = 0

    def add(self, row: Row) -> None:
        """Take in the next row.

        Raises:
            DataError: a value that JSON does not know.
        """
        self._pending.append(canonical_row(row))
        self.rows += 1
        if len(self._pending) >= _CHUNK_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        text = "\n".join(self._pending) + "\n"
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                what="half of a surrogate pair stands alone in a text",
                where=f"rows {self.rows - len(self._pending) + 1} to {self.rows}",
                remedy="repair the text; it is not Unicode",
            ) from error
        self._hash.update(data)
        self._pending.clear()

    @property
    def value(self) -> str:
        """``sha256:`` and the hex digest of the rows so far."""
        self._flush()
        return "sha256:" + self._hash.hexdigest()


def content_digest(rows: Iterable[Row]) -> str:
    """Digest of the rows in the order given; they are read once and not kept.

    Raises:
        DataError: a value that JSON does not know.
    """
    digest = ContentDigest()
    for row in rows:
        digest.add(row)
    return digest.value


def order_digest(positions: Sequence[int] | npt.NDArray[np.int64]) -> str:
    """Digest of the source positions (from 0) of the rows, in the order of delivery."""
    return digest_bytes(b"crucible.order.v1\n" + np.asarray(positions, dtype="<i8").tobytes())


def transform_digest(description: Any) -> str:
    """Digest of the description of what was done to each row."""
    return digest_of({"transform": "crucible.transform.v1", "is": description})


def example_id(row: Row) -> str:
    """Digest of one row's content: the same row has the same id in every file, order and run.

    Raises:
        DataError: a value that JSON does not know.
    """
    return digest_bytes(canonical_row(row).encode())
