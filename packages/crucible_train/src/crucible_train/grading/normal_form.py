"""Normal forms of answers: two answers with one form are the same answer.

Both forms are those of the published graders of the MATH data set (Hendrycks et al., 2021, and PRM800K, Lightman et
al., 2023) as tinker-cookbook applies them, with what they get wrong: they decide parity, not truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = [
    "is_integer_text",
    "mathd_form",
    "prm_form",
    "strip_thousands",
]

_TEXT = re.compile(r"^\\text\{(?P<text>.+?)\}$")
_MATHD_REPLACED = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)
_PRM_REPLACED = (
    ("\\%", "%"),
    ("\\$", "$"),
    ("$", ""),
    ("%", ""),
    (" or ", " , "),
    (" and ", " , "),
    ("million", "*10^6"),
    ("billion", "*10^9"),
    ("trillion", "*10^12"),
)
_UNITS = "degree cm centimeter meter mile second minute hour day week month year foot feet inch yard".split()
_THOUSANDS = re.compile(r"(\d),(\d\d\d)($|\D)")
_NEAR = 1e-7


class _Unreadable(Exception):
    """The text breaks off where the form needs a character; it is left as it is."""


def mathd_form(answer: str) -> str:
    """The MATH form: fractions and roots with braces, no spaces, units, degrees, dollars or percent signs."""
    answer = answer.strip()
    if match := _TEXT.search(answer):
        answer = match["text"].strip()
    try:
        return _mathd(answer)
    except _Unreadable:
        return answer


def _mathd(text: str) -> str:
    for old, new in _MATHD_REPLACED:
        text = text.replace(old, new)
    head, *units = text.split("\\text{ ")
    if len(units) > 1:
        raise _Unreadable
    text = head.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text.startswith("."):
        text = f"0{text}"
    name, *values = text.split("=")
    if len(values) == 1 and len(name) <= 2:
        text = values[0]
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    return _ratio_as_fraction("\\frac{1}{2}" if text == "0.5" else text)


def _braced_roots(text: str) -> str:
    """``\\sqrt3`` as ``\\sqrt{3}``, and a root of nothing as ``\\sqrt{}``."""
    head, *tails = text.split("\\sqrt")
    return head + "".join(
        "\\sqrt" + (tail if tail.startswith("{") else f"{{{tail[:1]}}}{tail[1:]}") for tail in tails
    )


def _braced_fractions(text: str) -> str:
    """``\\frac12`` as ``\\frac{1}{2}`` and ``\\frac1{72}`` as ``\\frac{1}{72}``; as it is when one breaks off."""
    result, *tails = text.split("\\frac")
    for tail in tails:
        if not tail:
            raise _Unreadable
        if tail[0] == "{":
            result += f"\\frac{tail}"
        elif len(tail) == 1:
            return text
        else:
            below = tail[1] if tail[1] == "{" else f"{{{tail[1]}}}"
            result += f"\\frac{{{tail[0]}}}{below}{tail[2:]}"
    return result


def _ratio_as_fraction(text: str) -> str:
    """``3/4`` as ``\\frac{3}{4}``, integers alone."""
    parts = text.split("/")
    if len(parts) != 2:
        return text
    try:
        above, below = (int(part) for part in parts)
    except ValueError:
        return text
    if text != f"{above}/{below}":
        raise _Unreadable
    return f"\\frac{{{above}}}{{{below}}}"


def prm_form(answer: str, latex_to_text: Callable[[str], str | None]) -> str:
    """The PRM800K form: lower case, no units, LaTeX as plain text, integers as digits.

    ``latex_to_text`` writes LaTeX as Unicode text, or gives None for what it cannot read, which stays as it is.
    """
    if match := _TEXT.search(answer):
        answer = match["text"]
    for old, new in _PRM_REPLACED:
        answer = answer.replace(old, new)
    for unit in _UNITS:
        answer = re.sub(rf"{unit}(es)?(s)? *(\^[0-9]+)?", "", answer)
    answer = re.sub(r"\^ *\\circ", "", answer)
    if answer and answer[0] == "{" and answer[-1] == "}":
        answer = answer[1:-1]
    answer = re.sub(r",\\! *", "", answer)
    value = _float(answer)
    if value is not None and _is_near_integer(value):
        answer = str(round(value))
    if "\\" in answer:
        answer = _plain(answer, latex_to_text)
    answer = re.sub("- *", "-", answer)
    answer = re.sub("([0-9]) +([0-9])", r"\1+\2", answer)
    answer = answer.replace(" ", "").replace("{", "").replace("}", "").lower()
    return str(int(float(answer.replace(",", "")))) if is_integer_text(answer) else answer


def _plain(latex: str, latex_to_text: Callable[[str], str | None]) -> str:
    spaced = latex.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac").replace("\\frac", " \\frac")
    text = latex_to_text(spaced)
    if text is None:
        return latex
    for sign, word in (("√", "sqrt"), ("π", "pi"), ("∞", "inf"), ("∪", "U"), ("·", "*"), ("×", "*")):
        text = text.replace(sign, word)
    return text.strip()


def strip_thousands(text: str) -> str:
    """``1,234,567`` as ``1234567``; commas that do not stand before three digits stay."""
    while (shorter := _THOUSANDS.sub(r"\1\2\3", text)) != text:
        text = shorter
    return text


def is_integer_text(text: str) -> bool:
    """Whether the text reads as a number within 1e-7 of an integer, thousands separated or not."""
    value = _float(strip_thousands(text))
    return value is not None and _is_near_integer(value)


def _float(text: str) -> float | None:
    try:
        return float(text)
    except (ValueError, OverflowError):
        return None


def _is_near_integer(value: float) -> bool:
    try:
        return abs(value - round(value)) <= _NEAR
    except (ValueError, OverflowError):
        return False
