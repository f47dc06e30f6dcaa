"""Free-form fields: JSON objects whose values are checked, made plain, and named when they are not JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

from crucible_ir.errors import Problem
from crucible_ir.problems import complaint

__all__ = ["JsonData", "JsonObject", "MeasuredObject", "plain_json"]


def _key(key: Any) -> str | None:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str):
        return str(key)
    return str(key) if isinstance(key, int) and not isinstance(key, bool) else None


def _plain(value: Any, path: str, finite: bool, problems: list[Problem]) -> Any:
    match value:
        case None | bool():
            return value
        case Enum():
            return _plain(value.value, path, finite, problems)
        case str():
            return str(value)
        case int():
            return int(value)
        case float():
            if finite and not math.isfinite(value):
                problems.append(Problem(path=path, message=f"should be a finite number, not {value!r}"))
            return float(value)
        case Mapping():
            out = {}
            for key, item in value.items():
                name = _key(key)
                if name is None:
                    problems.append(Problem(path=path, message=f"a {type(key).__name__} cannot be a key"))
                    continue
                out[name] = _plain(item, f"{path}.{name}" if path else name, finite, problems)
            return out
        case list() | tuple():
            return [_plain(item, f"{path}[{n}]", finite, problems) for n, item in enumerate(value)]
        case PurePath():
            return value.as_posix()
        case datetime() if value.utcoffset() is not None:
            return value.isoformat().replace("+00:00", "Z")
        case BaseModel():
            return _plain(value.model_dump(), path, finite, problems)
    problems.append(
        Problem(
            path=path,
            message=f"a {type(value).__name__} is not a JSON value",
            remedy="give text, numbers, lists, objects, or dates with an offset",
        )
    )
    return None


def plain_json(value: Any, *, finite: bool = True) -> Any:
    """``value`` in JSON's own types: tuples become lists, enums their values, paths and dates text.

    Raises:
        PydanticCustomError: naming each place that is not JSON; with ``finite``, NaN and infinities too.
    """
    problems: list[Problem] = []
    plain = _plain(value, "", finite, problems)
    if problems:
        raise complaint(problems)
    return plain


def _object(value: Any) -> Any:
    return plain_json(value) if isinstance(value, Mapping) else value


def _measured(value: Any) -> Any:
    return plain_json(value, finite=False) if isinstance(value, Mapping) else value


JsonObject = Annotated[dict[str, Any], BeforeValidator(_object)]
"""An object of finite JSON values, so that it has a digest."""
JsonData = Annotated[Any, BeforeValidator(plain_json)]
"""Any finite JSON value."""
MeasuredObject = Annotated[dict[str, Any], BeforeValidator(_measured)]
"""An object of JSON values whose floats may be NaN or infinite."""
