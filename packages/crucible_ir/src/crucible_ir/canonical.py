"""Canonical JSON and the digest of it: the same bytes for the same value on every platform.

RFC 8785 (JSON Canonicalization Scheme): keys in the order of their UTF-16 code units, no white space,
numbers as ECMAScript's Number::toString writes them, strings as JSON.stringify writes them, UTF-8.

- An integral float equals the integer: ``1.0`` and ``1`` are both ``1``, ``-0.0`` is ``0``. This holds up to
  2**53; beyond it an ``int`` is written exactly (RFC 8785 knows doubles only) and a float in its shortest form.
- ``True`` is ``true``, never ``1``.
- Refused: NaN and infinities, lone surrogates, dates without an offset, keys other than strings and integers.
- Beyond JSON: enums are their values, contracts their fields, dates UTC with ``Z``, paths POSIX, sets sorted arrays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from json.encoder import encode_basestring
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from crucible_ir.errors import DataError

__all__ = ["canonical_json", "digest_bytes", "digest_of"]


def _refused(what: str, remedy: str) -> DataError:
    return DataError(what=what, where="canonical_json", remedy=remedy)


def _number(value: float) -> str:
    """ECMAScript Number::toString, radix 10."""
    if not math.isfinite(value):
        raise _refused(f"{value!r} has no canonical form", "give a finite number")
    if value == 0:
        return "0"
    if value < 0:
        return "-" + _number(-value)
    mantissa, _, exponent = float.__repr__(value).partition("e")
    whole, _, fraction = mantissa.partition(".")
    # value = 0.<digits> * 10**point, with no zeros at either end of digits
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    power = point - 1
    head = digits if count == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{head}e{'+' if power > 0 else '-'}{abs(power)}"


def _integer(value: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError:
        raise _refused(
            f"an integer of {value.bit_length()} bits is too long to write", "give it as text"
        ) from None


def _string(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _refused(
            f"a lone surrogate at position {error.start} has no canonical form",
            "give text that is valid Unicode",
        ) from None
    return encode_basestring(str(value))


def _key(key: Any) -> str:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str):
        return key
    if isinstance(key, int) and not isinstance(key, bool):
        return _integer(key)
    raise _refused(f"a {type(key).__name__} cannot be a key", "give keys as strings")


def _object(value: Mapping[Any, Any]) -> str:
    fields: dict[str, str] = {}
    for raw, item in value.items():
        key = _key(raw)
        if key in fields:
            raise _refused(f"the key {key!r} stands twice, as text and as a number", "keep one of them")
        fields[key] = f"{_string(key)}:{_write(item)}"
    return (
        "{" + ",".join(fields[key] for key in sorted(fields, key=lambda key: key.encode("utf-16-be"))) + "}"
    )


def _date(value: datetime) -> str:
    if value.utcoffset() is None:
        raise _refused(f"the date {value.isoformat()} has no offset", "give it a time zone, for example UTC")
    return _string(value.astimezone(UTC).isoformat().replace("+00:00", "Z"))


def _write(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Enum():
            return _write(value.value)
        case str():
            return _string(value)
        case int():
            return _integer(value)
        case float():
            return _number(value)
        case BaseModel():
            return _object(value.model_dump())
        case datetime():
            return _date(value)
        case PurePath():
            return _string(value.as_posix())
        case Mapping():
            return _object(value)
        case set() | frozenset():
            return "[" + ",".join(sorted(_write(item) for item in value)) + "]"
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            return "[" + ",".join(_write(item) for item in value) + "]"
    raise _refused(
        f"a {type(value).__name__} has no canonical form", "give JSON values, pydantic models, dates or paths"
    )


def canonical_json(value: Any) -> str:
    """The one JSON text of ``value``.

    Raises:
        DataError: NaN, infinity, a lone surrogate, a date without an offset, or a type that JSON does not know.
    """
    return _write(value)


def digest_bytes(data: bytes) -> str:
    """``sha256:`` and the hex digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """Digest of ``canonical_json(value)``."""
    return digest_bytes(canonical_json(value).encode())
