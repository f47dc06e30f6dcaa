"""JSON text to values, strictly: no NaN, no key twice, no half of a surrogate pair."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

__all__ = ["JSON_KINDS", "JsonRefused", "kind_of", "parse_json"]

JSON_KINDS = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonRefused(ValueError):
    """Text that the parser takes but this project does not; the message says why."""


def kind_of(value: Any) -> str:
    """What JSON calls a value of this type, with its article."""
    return JSON_KINDS.get(type(value), type(value).__name__)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonRefused(f"the key {key!r} stands twice in one object")
            seen.add(key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise JsonRefused(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        json.JSONDecodeError: not JSON; carries line and column.
        JsonRefused: a key twice in one object, NaN or an infinity, an unpaired surrogate, a number of more
            digits than Python reads, or nesting deeper than its stack.
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except RecursionError as error:
        raise JsonRefused("it is nested too deeply") from error
    except JsonRefused:
        raise
    except ValueError as error:
        raise JsonRefused(str(error).partition(";")[0]) from error
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise JsonRefused("half of a surrogate pair (\\ud800 to \\udfff) stands alone") from error
    return value
