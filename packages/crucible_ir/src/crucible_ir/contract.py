"""The base of every contract: frozen, strict about keys, versioned, able to name all its problems."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from crucible_ir.canonical import canonical_json, digest_of
from crucible_ir.errors import ConfigError
from crucible_ir.migrations import migrate
from crucible_ir.problems import problems_of

__all__ = ["Contract", "JsonValue", "Measured"]

JsonValue = Any
"""A value that JSON can hold; ``Any`` because that is where JSON enters."""


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ConfigError(what=f"the key {twin!r} stands twice in one object", remedy="keep one of them")
    return fields


def _read(text: str | bytes, *, name: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_no_twins)
    except json.JSONDecodeError as error:
        raise ConfigError(
            what=f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            where=where or name,
            remedy="give one JSON object",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            what=f"not UTF-8 text: byte {error.start}", where=where or name, remedy="save it as UTF-8"
        ) from None
    except ConfigError as error:
        raise ConfigError(what=error.what, where=where or name, remedy=error.remedy) from None


class Contract(BaseModel):
    """A frozen value that crosses a process or package boundary; its floats are finite, its dates have an offset."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    @classmethod
    def parse(cls, data: Mapping[str, Any] | str | bytes, *, where: str = "", strict: bool = True) -> Self:
        """Validate ``data`` (a mapping or JSON text), migrating it from an older schema version first.

        ``where`` goes before every path (a file's name, say). ``strict=False`` drops unknown keys at any depth.

        Raises:
            ConfigError: with every problem at once, each with its dotted path and the nearest valid name.
        """
        value = _read(data, name=cls.__name__, where=where) if isinstance(data, str | bytes) else data
        if isinstance(value, Mapping):
            value = migrate(cls, value, where=where)
        try:
            return cls.model_validate(value, extra=None if strict else "ignore")
        except ValidationError as error:
            raise problems_of(error, cls, where=where) from error

    @property
    def content_digest(self) -> str:
        """Digest of the canonical JSON of all fields that are not None.

        An optional field that is added later leaves the digests of stored values as they are.
        """
        return digest_of(self.model_dump(exclude_none=True))

    def canonical(self) -> str:
        """Canonical JSON of all fields."""
        return canonical_json(self)


class Measured(Contract):
    """A contract that holds what was measured: its floats may be NaN or infinite (``"NaN"`` in JSON)."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="strings")
