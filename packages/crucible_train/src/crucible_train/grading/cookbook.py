"""The verdict of tinker-cookbook's ``grade_answer``, right or wrong: for parity.

Its chain: equal MATH forms, or equal PRM800K forms, or element by element a difference that sympy simplifies to zero.
Reading LaTeX and simplifying are functions that the caller gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from crucible_train.grading.normal_form import is_integer_text, mathd_form, prm_form, strip_thousands

__all__ = ["cookbook_correct", "may_be_evaluated", "split_elements"]

_BRACKETS = frozenset("()[]")
_FRACTION = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")
_DANGEROUS = re.compile(r"\^\{|\^\(|\^[0-9]+\^|\^[0-9][0-9]+")
_MOST_LETTERS = 2


def cookbook_correct(
    given: str, gold: str, *, latex_to_text: Callable[[str], str | None], is_zero: Callable[[str], bool]
) -> bool:
    """Whether ``grade_answer(given, gold)`` says true.

    ``latex_to_text`` writes LaTeX as Unicode text, or gives None for what it cannot read. ``is_zero`` says whether an
    expression simplifies to zero, and is asked only about expressions that ``may_be_evaluated``.
    """
    if mathd_form(gold) == mathd_form(given):
        return True
    gold_form, given_form = prm_form(gold, latex_to_text), prm_form(given, latex_to_text)
    if gold_form == given_form:
        return True
    if not given_form:
        return False
    golds, givens = split_elements(gold_form), split_elements(given_form)
    brackets_differ = len(golds) > 1 and (gold_form[0] != given_form[0] or gold_form[-1] != given_form[-1])
    if brackets_differ or len(golds) != len(givens) or not golds:
        return False
    return all(_element(one, other, is_zero) for one, other in zip(golds, givens, strict=True))


def _element(gold: str, given: str, is_zero: Callable[[str], bool]) -> bool:
    """One element: fractions must be written alike, an integer wants an integer, the rest goes to sympy."""
    if _FRACTION.search(gold) and _FRACTION.search(given):
        return gold == given
    if is_integer_text(gold) != is_integer_text(given):
        return False
    difference = f"({gold})-({given})"
    return may_be_evaluated(difference) and is_zero(difference)


def split_elements(form: str) -> list[str]:
    """Elements of a tuple or interval in brackets; anything else is one element, the empty text none."""
    form = strip_thousands(form)
    if not form:
        return []
    inside = form[1:-1]
    if len(form) > 2 and {form[0], form[-1]} <= _BRACKETS and not _BRACKETS & set(inside):
        return [element.strip() for element in inside.split(",")]
    return [form]


def may_be_evaluated(expression: str) -> bool:
    """At most two letters beside ``sqrt`` and ``frac``, and no power of the kinds that grow without end."""
    letters = {char for char in expression.replace("sqrt", "").replace("frac", "") if char.isalpha()}
    return len(letters) <= _MOST_LETTERS and _DANGEROUS.search(expression) is None
