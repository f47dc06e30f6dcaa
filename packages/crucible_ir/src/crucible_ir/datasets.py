"""Loaded rows together with the reference that says exactly which they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crucible_ir.refs import DatasetRef

__all__ = ["DatasetSnapshot", "Drop", "Row"]

Row = Mapping[str, Any]
"""One example as read: field name → JSON value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Rows that were left out for one reason, with the place of the first."""

    reason: str
    count: int
    first: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSnapshot:
    """Rows in order; ``ref`` carries content, order and transform digests."""

    ref: DatasetRef
    rows: Sequence[Row]
    drops: tuple[Drop, ...] = ()
