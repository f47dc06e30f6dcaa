"""The settings of a field mapping, as ``DatasetRef.mapping`` carries them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from crucible_datasets.mapping.exclusion import Exclusion
from crucible_datasets.mapping.schemas import SCHEMAS
from crucible_ir import ConfigError, Problem, nearest

__all__ = ["FieldMapping"]

_KEYS = ("schema", "fields", "keep", "strict", "exclude")


def _schema_named(given: Any, fields: Mapping[str, str], problems: list[Problem]) -> str:
    names = ["auto", "raw", *SCHEMAS]
    if given is None:
        return "auto" if not fields else _schema_of(fields, problems)
    if given not in names:
        near = nearest(str(given), names)
        problems.append(
            Problem(
                path="mapping.schema",
                message=f"unknown schema {given!r}",
                remedy=f"did you mean {near!r}?" if near else f"valid: {', '.join(names)}",
            )
        )
        return "auto"
    return (
        "auto"
        if given == "auto" and not fields
        else _schema_of(fields, problems)
        if given == "auto"
        else given
    )


def _schema_of(fields: Mapping[str, str], problems: list[Problem]) -> str:
    """The first schema whose required fields are all named and that knows all of them."""
    for schema in SCHEMAS.values():
        known = {name for name, _ in schema.fields}
        if schema.required <= set(fields) <= known:
            return schema.name
    problems.append(
        Problem(
            path="mapping.fields",
            message=f"no schema has exactly the fields {', '.join(sorted(fields))}",
            remedy="name the schema: " + "; ".join(schema.summary for schema in SCHEMAS.values()),
        )
    )
    return "auto"


def _check_fields(schema: str, fields: Mapping[str, str], problems: list[Problem]) -> None:
    if schema in ("auto", "raw"):
        if fields and not problems:
            problems.append(
                Problem(
                    path="mapping.fields", message="schema 'raw' has no fields", remedy="leave fields out"
                )
            )
        return
    known = [name for name, _ in SCHEMAS[schema].fields]
    for name in fields:
        if name not in known:
            near = nearest(name, known)
            problems.append(
                Problem(
                    path=f"mapping.fields.{name}",
                    message=f"schema {schema!r} has no field {name!r}",
                    remedy=f"did you mean {near!r}?" if near else f"valid: {', '.join(known)}",
                )
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldMapping:
    """Which schema rows have, which columns carry its fields, and what else to keep of them.

    Written as a dict: ``{"schema": "prompt_completion", "fields": {"prompt": "question"}, "keep": ["id"]}``. An
    empty dict, and ``schema: raw``, leave rows as they are; ``schema: auto`` finds the schema from the columns.
    ``exclude`` leaves out rows that another dataset holds too. ``keep`` is ``true`` for every column the schema
    does not use, or a list of names. ``strict`` makes the first row that does not fit an error instead of a
    counted drop.
    """

    schema: str = "raw"
    fields: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    keep: bool | tuple[str, ...] = False
    strict: bool = False
    exclude: Exclusion | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> FieldMapping:
        """Check a dict.

        Raises:
            ConfigError: with every problem at once: unknown keys, schemas and fields with the nearest valid name,
                and values of the wrong type.
        """
        if not given:
            return cls()
        problems: list[Problem] = []
        for key in given:
            if key not in _KEYS:
                near = nearest(key, _KEYS)
                hint = f"did you mean {near!r}?" if near else f"valid: {', '.join(_KEYS)}"
                problems.append(Problem(path=f"mapping.{key}", message=f"unknown key {key!r}", remedy=hint))
        fields = given.get("fields", {})
        if not (
            isinstance(fields, Mapping)
            and all(isinstance(v, str) and isinstance(k, str) for k, v in fields.items())
        ):
            problems.append(
                Problem(
                    path="mapping.fields",
                    message=f"{fields!r} is not a table of field = column",
                    remedy='write {"prompt": "question"}',
                )
            )
            fields = {}
        schema = _schema_named(given.get("schema"), fields, problems)
        _check_fields(schema, fields, problems)
        keep = given.get("keep", False)
        if isinstance(keep, list | tuple) and all(isinstance(name, str) for name in keep):
            keep = tuple(keep)
        elif not isinstance(keep, bool):
            problems.append(
                Problem(path="mapping.keep", message=f"{keep!r} is neither true, false nor a list of columns")
            )
        strict = given.get("strict", False)
        if not isinstance(strict, bool):
            problems.append(Problem(path="mapping.strict", message=f"{strict!r} is neither true nor false"))
        exclude = Exclusion.parse(given["exclude"], problems) if given.get("exclude") is not None else None
        if problems:
            raise ConfigError(problems=problems)
        return cls(
            schema=schema, fields=MappingProxyType(dict(fields)), keep=keep, strict=strict, exclude=exclude
        )

    def as_dict(self) -> dict[str, Any]:
        """The dict that ``parse`` reads back to this mapping."""
        keep = list(self.keep) if isinstance(self.keep, tuple) else self.keep
        full = {"schema": self.schema, "fields": dict(self.fields), "keep": keep, "strict": self.strict}
        found = {key: value for key, value in full.items() if key == "schema" or value}
        return found if self.exclude is None else found | {"exclude": self.exclude.as_dict()}

    @property
    def identity(self) -> dict[str, Any]:
        """What makes the rows what they are: ``as_dict`` without ``strict``, and what is excluded by its digests."""
        found = {key: value for key, value in self.as_dict().items() if key != "strict"}
        return found if self.exclude is None else found | {"exclude": self.exclude.identity}
