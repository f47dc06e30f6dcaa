"""Numbers read exactly from the ways in which answers write them."""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["read_in_base", "read_number"]

_LONGEST = 200
_LARGEST_EXPONENT = 400
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = re.compile(rf"({_DIGITS}(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d{{1,3}}))?", re.ASCII)
_RATIO = re.compile(rf"(?:(\d+)[ +])?({_DIGITS})/({_DIGITS})", re.ASCII)
_MIXED_FRAC = re.compile(
    r"(\d*)\s*\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}|(\d))\s*(?:\{\s*(-?\d+)\s*\}|(\d))",
    re.ASCII,
)
_UNGROUPED = str.maketrans("", "", ", ")
_BASED = re.compile(r"([0-9A-Za-z]+)_(?:\{\s*(\d{1,2})\s*\}|(\d{1,2}))", re.ASCII)
_SPACING = re.compile(r"\\[!,;: ]|~")
_SIGN = re.compile(r"([+-]?)\s*(?:\\?[$€£¥])?\s*([+-]?)\s*")


def read_number(text: str) -> Fraction | None:
    """The number that ``text`` is, exactly; None when it is anything else (a variable, a unit, a percentage).

    Reads integers (``1,234``, ``1 234``), decimals (``.5``, ``5.``), ``1e3``, ``a/b``, mixed numbers
    (``1 1/2``), ``\\frac{a}{b}`` and ``\\frac12``, a sign, a currency sign in front, ``million`` and the like behind,
    and ``$...$`` around it.
    """
    if len(text) > _LONGEST:
        return None
    body = _SPACING.sub("", text.strip().removeprefix("$").removesuffix("$")).strip()
    sign = _SIGN.match(body)
    if sign is None or (sign[1] and sign[2]):
        return None
    body, scale = _scaled(body[sign.end() :].strip())
    value = _unsigned(body)
    if value is None:
        return None
    return value * scale * (-1 if "-" in (sign[1], sign[2]) else 1)


def read_in_base(text: str) -> int | None:
    """The value of an integer that names its base, as ``1011_2`` or ``2F_{16}``; None for anything else."""
    match = _BASED.fullmatch(text.strip().removeprefix("$").removesuffix("$").strip())
    if match is None or len(text) > _LONGEST:
        return None
    try:
        return int(match[1], int(match[2] or match[3]))
    except ValueError:
        return None


def _scaled(body: str) -> tuple[str, int]:
    for word, scale in _SCALES.items():
        if body.endswith(word):
            return body.removesuffix(word).strip(), scale
    return body, 1


def _unsigned(body: str) -> Fraction | None:
    if match := _DECIMAL.fullmatch(body):
        exponent = int(match[2] or 0)
        if abs(exponent) > _LARGEST_EXPONENT:
            return None
        return Fraction(match[1].translate(_UNGROUPED).removesuffix(".")) * Fraction(10) ** exponent
    if match := _RATIO.fullmatch(body):
        return _ratio(match[1], match[2].translate(_UNGROUPED), match[3].translate(_UNGROUPED))
    if match := _MIXED_FRAC.fullmatch(body):
        return _ratio(match[1], match[2] or match[3], match[4] or match[5])
    return None


def _ratio(whole: str | None, above: str, below: str) -> Fraction | None:
    if int(below) == 0 or (whole and "-" in above + below):
        return None
    return int(whole or 0) + Fraction(int(above), int(below))
