"""From Python values to plain JSON values, and to one line of text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import PurePath
from typing import Any

from crucible_ir.contract import Contract
from crucible_ir.errors import DataError

__all__ = ["float_of", "json_line", "json_number", "plain_json"]

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def json_number(value: float) -> float | str:
    """``value``, or ``"NaN"``, ``"Infinity"``, ``"-Infinity"``: JSON has no numbers for these three."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def float_of(value: Any) -> float:
    """The number that ``json_number`` wrote.

    Raises:
        ValueError: neither a number nor one of the three words.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a number")
    if isinstance(value, str):
        if value not in _WORDS:
            raise ValueError(f"{value!r} is not a number")
        return _WORDS[value]
    return float(value)


def plain_json(value: Any, path: str = "data") -> Any:
    """``value`` as JSON reads it back: keys are text, tuples are lists, dates are ISO 8601.

    Lone surrogates (file names that are not UTF-8) become the text ``\\udcXX``.

    Raises:
        DataError: a type that JSON does not know, with its dotted ``path``.
    """
    match value:
        case None | bool():
            return value
        case Enum():
            return plain_json(value.value, path)
        case str():
            return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
        case int():
            return int(value)
        case float():
            return json_number(float(value))
        case Contract():
            return plain_json(value.model_dump(), path)
        case datetime():
            return value.isoformat()
        case PurePath():
            return str(value)
        case Mapping():
            return {plain_json(str(key)): plain_json(item, f"{path}.{key}") for key, item in value.items()}
        case list() | tuple():
            return [plain_json(item, f"{path}[{index}]") for index, item in enumerate(value)]
        case set() | frozenset():
            return sorted((plain_json(item, path) for item in value), key=repr)
    raise DataError(
        what=f"a {type(value).__name__} cannot be written as JSON",
        where=path,
        remedy="give text, numbers, true, false, null, lists, mappings, dates, paths or contracts",
    )


def json_line(value: Any) -> bytes:
    """One line of UTF-8 JSON of what ``plain_json`` returned, newline included."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"
