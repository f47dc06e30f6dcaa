"""Canonical JSON and the digest of it: the same bytes for the same value on every platform.

Follows RFC 8785 (JSON Canonicalization Scheme) in spirit: keys sorted by UTF-16 code units, no white
space, shortest float form as ECMAScript writes it, UTF-8. Differences: integers of any size are written
exactly, and NaN or infinities are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from crucible_ir.errors import DataError

__all__ = ["canonical_json", "digest_bytes", "digest_of"]


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise DataError(
            what=f"{value!r} has no canonical form", where="canonical_json", remedy="give a finite number"
        )
    if value == 0:
        return "0"
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    mantissa, _, exponent = repr(value).partition("e")
    if not exponent:
        return mantissa
    power = int(exponent)
    if -7 <= power < 0:
        return f"{value:.{-power + len(mantissa.replace('-', '').replace('.', '')) - 1}f}"
    return f"{mantissa.removesuffix('.0')}e{'+' if power > 0 else '-'}{abs(power)}"


def _write(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Enum():
            return _write(value.value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case int():
            return str(value)
        case float():
            return _number(value)
        case BaseModel():
            return _write(value.model_dump(mode="json"))
        case datetime():
            return _write(value.astimezone(UTC).isoformat().replace("+00:00", "Z"))
        case PurePath():
            return _write(value.as_posix())
        case Mapping():
            keys = sorted(value, key=lambda key: str(key).encode("utf-16-be"))
            return "{" + ",".join(f"{_write(str(key))}:{_write(value[key])}" for key in keys) + "}"
        case set() | frozenset():
            return "[" + ",".join(sorted(_write(item) for item in value)) + "]"
        case Sequence() if not isinstance(value, bytes | bytearray):
            return "[" + ",".join(_write(item) for item in value) + "]"
    raise DataError(
        what=f"a {type(value).__name__} has no canonical form",
        where="canonical_json",
        remedy="give JSON values, pydantic models, dates or paths",
    )


def canonical_json(value: Any) -> str:
    """The one JSON text of ``value``.

    Raises:
        DataError: NaN, infinity, or a type that JSON does not know.
    """
    return _write(value)


def digest_bytes(data: bytes) -> str:
    """``sha256:`` and the hex digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """Digest of ``canonical_json(value)``."""
    return digest_bytes(canonical_json(value).encode())
