"""Which schema rows have, told from their columns, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from crucible_datasets.mapping.field_mapping import FieldMapping
from crucible_datasets.mapping.schemas import SCHEMAS, Schema
from crucible_ir import ConfigError, DataError, Problem, Row, nearest

__all__ = ["Detection", "columns_of", "detect_schema", "resolve_fields"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """The schema found, the column of each of its fields, and why."""

    schema: str
    fields: Mapping[str, str]
    explanation: str


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Columns that hold a value in at least one of the rows, in order of first sight."""
    return list({name: None for row in rows for name, value in row.items() if value is not None})


def _fields(schema: Schema, columns: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for field, usual in schema.fields:
        column = next((name for name in usual if name in columns and name not in found.values()), None)
        if column is not None:
            found[field] = column
    return found


def detect_schema(rows: Iterable[Row]) -> Detection:
    """The first schema that may be guessed, in the order of ``SCHEMAS``, whose required fields all have a usual column.

    Raises:
        DataError: no schema fits; names the columns there are and the schemas.
    """
    columns = columns_of(rows)
    for schema in SCHEMAS.values():
        fields = _fields(schema, columns)
        if schema.guessed and schema.required <= set(fields):
            used = ", ".join(f"{field} = {column!r}" for field, column in fields.items())
            left = [name for name in columns if name not in fields.values()]
            aside = f"; left aside: {', '.join(map(repr, left))}" if left else ""
            return Detection(schema=schema.name, fields=fields, explanation=f"{schema.name}: {used}{aside}")
    raise DataError(
        what=f"no known schema has the columns {', '.join(map(repr, columns)) or '(none)'}",
        where="mapping",
        remedy="say which column is what, for example "
        'mapping = {"schema": "prompt_completion", "fields": {"prompt": "…", "completion": "…"}}; schemas: '
        + "; ".join(schema.summary for schema in SCHEMAS.values()),
    )


def resolve_fields(mapping: FieldMapping, rows: Iterable[Row]) -> FieldMapping:
    """``mapping`` with its schema found and every field's column filled in, by the columns of ``rows``.

    Raises:
        DataError: no schema fits.
        ConfigError: a column that was named, or that the schema needs, is not there; nearest column named.
    """
    if mapping.schema == "raw":
        return mapping
    rows = list(rows)
    if mapping.schema == "auto":
        found = detect_schema(rows)
        return replace(mapping, schema=found.schema, fields=found.fields)
    columns = columns_of(rows)
    schema = SCHEMAS[mapping.schema]
    usual = _fields(schema, [name for name in columns if name not in mapping.fields.values()])
    fields = {
        field: mapping.fields.get(field, usual.get(field))
        for field, _ in schema.fields
        if field in mapping.fields or field in usual
    }
    problems = []
    for field, column in fields.items():
        if str(column).split(".")[0] not in columns and column not in columns:
            near = nearest(str(column), columns)
            problems.append(
                Problem(
                    path=f"mapping.fields.{field}",
                    message=f"the data have no column {column!r}",
                    remedy=f"did you mean {near!r}?" if near else f"there are: {', '.join(columns)}",
                )
            )
    for field in sorted(schema.required - set(fields)):
        problems.append(
            Problem(
                path=f"mapping.fields.{field}",
                message=f"schema {schema.name!r} needs it, and no column has a usual name for it",
                remedy=f"name its column; there are: {', '.join(columns)}",
            )
        )
    if problems:
        raise ConfigError(problems=problems)
    return replace(mapping, fields={field: str(column) for field, column in fields.items()})
