"""The base of every contract: frozen, strict about keys, versioned, able to name all its problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from crucible_ir.canonical import canonical_json, digest_of
from crucible_ir.problems import problems_of

__all__ = ["Contract", "JsonValue"]

JsonValue = Any
"""A value that JSON can hold; ``Any`` because that is where JSON enters."""


class Contract(BaseModel):
    """A frozen value that crosses a process or package boundary."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    @classmethod
    def parse(cls, data: Mapping[str, Any] | str | bytes, *, where: str = "") -> Self:
        """Validate ``data``.

        Raises:
            ConfigError: with every problem at once, each with its dotted path and the nearest valid name.
        """
        try:
            if isinstance(data, str | bytes):
                return cls.model_validate_json(data)
            return cls.model_validate(data)
        except ValidationError as error:
            raise problems_of(error, cls, where=where) from error

    @property
    def content_digest(self) -> str:
        """Digest of the canonical JSON of all fields."""
        return digest_of(self)

    def canonical(self) -> str:
        """Canonical JSON of all fields."""
        return canonical_json(self)
