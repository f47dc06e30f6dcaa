"""The final answer in a text: inside ``\\boxed{...}``, or after GSM8K's ``####``."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["boxed_answer", "cookbook_boxed_answer", "gsm8k_answer"]

_BOX = "\\boxed"
_BARE = re.compile(r"\\boxed\s+([a-zA-Z0-9]+)")
_HASHES = "####"


def boxed_answer(text: str) -> str | None:
    """Content of the ``\\boxed{...}`` that ends last, braces balanced; None where there is none.

    ``\\{`` and ``\\}`` are signs, not braces; a stray ``}`` elsewhere and a box that is never closed do not count.
    ``\\boxed 5`` (no braces) counts where no box with braces does.
    """
    found = None
    opened: list[int] = []
    for place in _braces(text):
        if text[place] == "{":
            opened.append(place)
        elif opened and text.endswith(_BOX, 0, start := opened.pop()):
            found = text[start + 1 : place]
    return found if found is not None else _bare(text)


def cookbook_boxed_answer(text: str) -> str | None:
    """As ``boxed_answer``, as tinker-cookbook reads it: every brace counts, one ``}`` too many voids the text."""
    found = None
    opened: list[int] = []
    for place, char in enumerate(text):
        if char == "{":
            opened.append(place)
        elif char == "}":
            if not opened:
                return None
            start = opened.pop()
            if text.endswith(_BOX, 0, start):
                found = text[start + 1 : place]
    return found if found is not None else _bare(text)


def gsm8k_answer(text: str) -> str | None:
    """What follows ``####`` (and a colon) on the last line that starts with it, without commas; None if nothing does.

    Where no line starts with it, what follows the last ``####`` on its line, as it is.
    """
    for line in reversed(text.splitlines()):
        if line.strip().startswith(_HASHES):
            answer = line.strip().removeprefix(_HASHES).strip().removeprefix(":")
            return answer.replace(",", "").strip()
    inside = re.findall(rf"{_HASHES}\s*(.+)", text)
    return inside[-1].strip() if inside else None


def _braces(text: str) -> Iterator[int]:
    """Places of the braces that are not escaped (an odd number of backslashes escapes)."""
    for match in re.finditer(r"(?<!\\)(\\*)[{}]", text):
        if len(match[1]) % 2 == 0:
            yield match.end() - 1


def _bare(text: str) -> str | None:
    match = _BARE.search(text)
    return match[1] if match else None
