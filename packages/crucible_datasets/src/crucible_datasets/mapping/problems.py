r"""Problems with a gold answer: as a column has it, after ``####``, or in the last ``\boxed{}`` of a solution."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from crucible_datasets.mapping.messages import Unfit

__all__ = ["answer_after_hashes", "answer_as_given", "answer_in_box", "problem_of"]

_BOX = "\\boxed"
_UNBRACED = re.compile(r"\\boxed\s+([a-zA-Z0-9]+)")
_HASHES = "####"


def answer_as_given(text: str) -> str:
    """The text itself.

    Raises:
        Unfit: it is a worked solution whose answer stands after ``####``; taken whole, nothing would ever equal it.
    """
    if any(line.strip().startswith(_HASHES) for line in text.splitlines()):
        raise Unfit("answer is a solution with its answer after ####; the schema problem_hashes takes that")
    return text


def answer_after_hashes(text: str) -> str | None:
    """What follows ``####`` (and a colon) on the last line that starts with it, without commas.

    Where no line starts with it, what follows the last ``####`` on its line, as it is; None where there is none.
    """
    for line in reversed(text.splitlines()):
        if line.strip().startswith(_HASHES):
            found = line.strip().removeprefix(_HASHES).strip().removeprefix(":")
            return found.replace(",", "").strip()
    inside = re.findall(rf"{_HASHES}\s*(.+)", text)
    return inside[-1].strip() if inside else None


def answer_in_box(text: str) -> str | None:
    r"""Content of the ``\boxed{...}`` that ends last; ``\boxed 5`` where none has braces; None where there is none.

    Braces balance; ``\{`` and ``\}`` are signs, and a brace that closes nothing does not count.
    """
    found = None
    opened: list[int] = []
    for match in re.finditer(r"(?<!\\)(\\*)[{}]", text):
        if len(match[1]) % 2:
            continue
        place = match.end() - 1
        if text[place] == "{":
            opened.append(place)
        elif opened and text.endswith(_BOX, 0, start := opened.pop()):
            found = text[start + 1 : place]
    if found is not None:
        return found
    unbraced = _UNBRACED.search(text)
    return unbraced[1] if unbraced else None


def problem_of(
    source: str, extract: Callable[[str], str | None], nothing: str
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The turn of a schema with the fields ``problem`` and ``source``, from which ``extract`` takes the answer.

    ``nothing`` is the reason for leaving out a row in which it finds none.
    """

    def turn(values: Mapping[str, Any]) -> dict[str, Any]:
        problem = _text(values["problem"], "problem")
        answer = extract(_text(values[source], source))
        if answer is None or not answer.strip():
            raise Unfit(nothing)
        return {"problem": problem, "answer": answer}

    return turn


def _text(value: Any, field: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Unfit(f"{field} is {'missing' if value is None else 'empty'}")
    if not isinstance(value, str):
        raise Unfit(f"{field} is no text")
    return value
