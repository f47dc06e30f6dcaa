"""From stored documents of older schema versions to the present one, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from crucible_ir.errors import ConfigError, ConflictError

__all__ = ["Migration", "current_version", "migrate", "register"]

Migration = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns the raw fields of one version into those of the next; sets no ``schema_version`` itself."""

_FIELD = "schema_version"
_STEPS: dict[tuple[type[BaseModel], int], Migration] = {}


def current_version(model: type[BaseModel]) -> int | None:
    """The schema version that ``model`` writes; None when it carries none."""
    field = model.model_fields.get(_FIELD)
    return None if field is None else int(field.default)


def register(model: type[BaseModel], from_version: int) -> Callable[[Migration], Migration]:
    """Decorator: the function takes documents of ``model`` from ``from_version`` to the next version.

    Raises:
        ConfigError: the model has no ``schema_version``, or ``from_version`` is not an older one.
        ConflictError: there is such a step already.
    """
    where = f"migrations.register({model.__name__}, {from_version})"
    current = current_version(model)
    if current is None:
        raise ConfigError(what=f"{model.__name__} has no {_FIELD}", where=where, remedy="add the field")
    if not 1 <= from_version < current:
        raise ConfigError(
            what=f"{from_version} is not older than the current version {current}",
            where=where,
            remedy=f"give a version from 1 to {current - 1}, or raise the default of {_FIELD} first",
        )

    def keep(step: Migration) -> Migration:
        if (model, from_version) in _STEPS:
            raise ConflictError(
                what="there is a migration from this version already", where=where, remedy="keep one"
            )
        _STEPS[model, from_version] = step
        return step

    return keep


def migrate(model: type[BaseModel], data: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """``data`` with every registered step applied; a document without a version counts as current.

    Raises:
        ConfigError: the document is newer than this version of the package knows, or a step is missing.
    """
    fields = dict(data)
    current = current_version(model)
    version = fields.get(_FIELD, current)
    if current is None or not isinstance(version, int) or isinstance(version, bool) or version < 1:
        return fields
    path = f"{where}.{_FIELD}" if where else _FIELD
    if version > current:
        raise ConfigError(
            what=f"{model.__name__} of schema version {version} is newer than {current}, the newest known here",
            where=path,
            remedy="upgrade crucible-ir, or write the document with the older version",
        )
    while version < current:
        step = _STEPS.get((model, version))
        if step is None:
            raise ConfigError(
                what=f"no migration of {model.__name__} from schema version {version} to {version + 1}",
                where=path,
                remedy="import the package that registers it, or write the document anew",
            )
        version += 1
        fields = {**step(fields), _FIELD: version}
    return fields
