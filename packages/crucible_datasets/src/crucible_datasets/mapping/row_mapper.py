"""One row in, one mapped row or the reason why not out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_datasets.mapping.field_mapping import FieldMapping
from crucible_datasets.mapping.messages import Unfit
from crucible_datasets.mapping.schemas import SCHEMAS
from crucible_ir import ConfigError, DataError, Drop, Row

__all__ = ["DropCounter", "RowMapper"]


def _at(row: Row, column: str) -> Any:
    """Value of a column; a dotted name that is no column reaches into objects."""
    if column in row or "." not in column:
        return row.get(column)
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


class RowMapper:
    """Turns rows by a mapping whose columns are resolved."""

    def __init__(self, mapping: FieldMapping) -> None:
        self.mapping = mapping
        self._schema = None if mapping.schema == "raw" else SCHEMAS[mapping.schema]
        self._used = {column.split(".")[0] for column in mapping.fields.values()}

    def turn(self, row: Row) -> Row:
        """The mapped row.

        Raises:
            Unfit: the row does not fit the schema.
            ConfigError: a column to keep has the name of a field of the result.
        """
        if self._schema is None:
            return row
        values = dict.fromkeys((name for name, _ in self._schema.fields), None)
        values.update({field: _at(row, column) for field, column in self.mapping.fields.items()})
        return self._kept(row, self._schema.turn(values))

    def _kept(self, row: Row, mapped: dict[str, Any]) -> dict[str, Any]:
        keep = self.mapping.keep
        if keep is False:
            return mapped
        names = [name for name in row if name not in self._used] if keep is True else keep
        for name in names:
            if name in mapped:
                raise ConfigError(
                    what=f"the column {name!r} would hide the {name!r} of the mapped row",
                    where="mapping.keep",
                    remedy="list the columns to keep, without that one",
                )
        return mapped | {name: row.get(name) for name in names}


class DropCounter:
    """Counts rows left out, by reason, with the place of the first of each."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._count: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, unfit: Unfit, where: str) -> None:
        """Count one row.

        Raises:
            DataError: in strict mode.
        """
        reason = str(unfit)
        if self._strict:
            raise DataError(
                what=reason,
                where=where,
                remedy="repair the row, or leave out mapping.strict to drop such rows",
            ) from unfit
        self._count[reason] = self._count.get(reason, 0) + 1
        self._first.setdefault(reason, where)

    @property
    def drops(self) -> tuple[Drop, ...]:
        """What was left out so far, most frequent reason first."""
        ordered = sorted(self._count.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Drop(reason=reason, count=n, first=self._first[reason]) for reason, n in ordered)
