"""Rows that another dataset holds too, taken out before anything else is done: no test problem is trained on.

A mapping asks for it with ``{"exclude": {"column": "problem", "dataset": {"id": …, "split": "test"}}}``: a row whose
value in the column is one of that column there is left out, and counted. Order, skip and limit see the others alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from crucible_datasets.mapping import Exclusion, FieldMapping, columns_of
from crucible_ir import ConfigError, DatasetRef, DatasetSnapshot, Drop, Row, canonical_json, nearest

__all__ = ["Excluded", "Load", "excluded_by"]

Load = Callable[[DatasetRef], DatasetSnapshot]
"""What loads the other dataset."""


class Excluded:
    """The values that are excluded, and a count of the rows that had one."""

    def __init__(self, exclusion: Exclusion, snapshot: DatasetSnapshot) -> None:
        """Read the column of ``snapshot``.

        Raises:
            ConfigError: no row of it has the column.
        """
        self.exclusion = replace(exclusion, dataset=snapshot.ref)
        self._column = exclusion.column
        _require(self._column, columns_of(snapshot.rows), snapshot.ref.id)
        self._values = {_key(row[self._column]) for row in snapshot.rows if self._column in row}
        self._count = 0
        self._first = ""

    def require_column(self, rows: Iterable[Row], where: str) -> None:
        """Look whether rows of the data have the column at all.

        Raises:
            ConfigError: none of them has it, so nothing could be excluded.
        """
        _require(self._column, columns_of(rows), where)

    def takes(self, row: Row) -> bool:
        """Whether the row is left out."""
        value = row.get(self._column)
        return value is not None and _key(value) in self._values

    def count(self, where: str) -> None:
        """Count a row that was left out; ``where`` it stands."""
        self._count += 1
        self._first = self._first or where

    @property
    def drops(self) -> tuple[Drop, ...]:
        """What was left out so far."""
        if not self._count:
            return ()
        there = self.exclusion.dataset
        reason = f"excluded: its {self._column!r} stands in {there.id}[{there.split}]"
        return (Drop(reason=reason, count=self._count, first=self._first),)


def excluded_by(mapping: FieldMapping, load: Load | None) -> Excluded | None:
    """What ``mapping`` excludes, loaded; None where it excludes nothing.

    Raises:
        ConfigError: there is nothing that loads it, or it lacks the column.
        NotFoundError, DataError, IntegrityError: as ``load``.
    """
    if mapping.exclude is None:
        return None
    if load is None:
        raise ConfigError(
            what="the rows to exclude are in another dataset, and nothing here loads it",
            where="mapping.exclude",
            remedy="load through a dataset store",
        )
    return Excluded(mapping.exclude, load(mapping.exclude.dataset))


def _key(value: object) -> str:
    return canonical_json(value)


def _require(column: str, columns: list[str], where: str) -> None:
    if column in columns:
        return
    near = nearest(column, columns)
    raise ConfigError(
        what=f"{where!r} has no column {column!r}",
        where="mapping.exclude.column",
        remedy=f"did you mean {near!r}?" if near else f"there are: {', '.join(columns)}",
    )
