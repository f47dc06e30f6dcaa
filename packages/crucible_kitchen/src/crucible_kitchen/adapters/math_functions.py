"""What the workers of the math bridge run: judges over sympy, pylatexenc and math-verify.

Imported by worker processes alone. Every function takes keywords and gives JSON. A judge gives ``verdict`` (one of
``correct``, ``incorrect``, ``cannot_judge``) and ``reason``. Nothing here limits time: the caller kills the process.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import math_verify as mv
import sympy
from math_verify import grader as mv_grader
from math_verify import parser as mv_parser
from pylatexenc.latex2text import LatexNodes2Text
from sympy.parsing import sympy_parser

from crucible_train.grading import cookbook_correct, prm_form

__all__ = ["cookbook_exact", "latex_to_sympy", "math_verify", "prm_normal_form"]

F = TypeVar("F", bound=Callable[..., Any])

_TRANSFORMATIONS = (
    *sympy_parser.standard_transformations,
    sympy_parser.implicit_multiplication_application,
)
_PLAIN = re.compile(r"[\w\s+\-*/^().,!]*")
_ATTRIBUTE = re.compile(r"__|[^\W\d]\w*\s*\.\s*[^\W\d]|\)\s*\.\s*[^\W\d]")
_DELIMITED = re.compile(r"\$|\\\(|\\\[|\\boxed")
_PROSE = re.compile(r"(?:^|\s)[A-Za-z']{2,}\s+[A-Za-z']{2,}(?:\s|$)")
_ROMAN = re.compile(r"\\(?:mathrm|operatorname|textrm|text|rm)\s*\{\s*([ei])\s*\}")
_EXHAUSTED: list[str] = []


def _watched(function: F) -> F:
    """``function``, whose exhaustion of memory or stack is noted before math-verify swallows it."""

    @functools.wraps(function)
    def watching(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (MemoryError, RecursionError) as error:
            _EXHAUSTED.append(f"{type(error).__name__} in {function.__name__}")
            raise

    return watching  # type: ignore[return-value]


# math-verify turns every exception into "not equal"; these are the places where an expression grows.
for _module, _name in (
    (mv_parser, "parse_latex_cached"),
    (mv_parser, "parse_expr_cached"),
    (mv_grader, "safe_sympy_doit"),
    (mv_grader, "simplify"),
    (mv_grader, "solve"),
    (mv_grader, "sympy_expr_eq"),
):
    setattr(_module, _name, _watched(getattr(_module, _name)))
mv_parser.TIMEOUT_WARNING_SHOWN = mv_grader.TIMEOUT_WARNING_SHOWN = True


def _latex_to_text(latex: str) -> str | None:
    try:
        return str(LatexNodes2Text().latex_to_text(latex))
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 - whatever a parser raises means that this is no LaTeX
        return None


def _names() -> dict[str, Any]:
    """What an expression may name: sympy and two built-ins; no other built-in is within its reach."""
    names: dict[str, Any] = {name: getattr(sympy, name) for name in sympy.__all__}
    return names | {"__builtins__": {}, "max": max, "min": min}


_NAMES = _names()


def _is_zero(expression: str) -> bool:
    """Whether sympy simplifies ``expression`` to zero; what sympy cannot read is not zero.

    ``parse_expr`` evaluates Python, so that only letters, digits and operators are let through.
    """
    if not _PLAIN.fullmatch(expression) or _ATTRIBUTE.search(expression):
        return False
    try:
        difference = sympy_parser.parse_expr(
            expression.replace("^", "**"), transformations=_TRANSFORMATIONS, global_dict=dict(_NAMES)
        )
        return bool(sympy.simplify(difference) == 0)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 - upstream takes whatever sympy raises for "not equal"
        return False


def prm_normal_form(*, text: str) -> str:
    """The PRM800K normal form of ``text``."""
    return prm_form(text, _latex_to_text)


def latex_to_sympy(*, latex: str) -> str:
    """What math-verify's LaTeX parser makes of ``latex``, as sympy writes it."""
    return str(mv_parser.latex2sympy(latex))


def cookbook_exact(*, answer: str, gold: str) -> dict[str, str]:
    """The verdict of tinker-cookbook's ``grade_answer``."""
    equal = cookbook_correct(answer, gold, latex_to_text=_latex_to_text, is_zero=_is_zero)
    if equal:
        return {"verdict": "correct", "reason": "equal by normal form or by sympy"}
    return {"verdict": "incorrect", "reason": "neither equal by normal form nor by sympy"}


def math_verify(*, answer: str, gold: str, strict: bool = True) -> dict[str, str]:
    """The verdict of math-verify, the gold answer read first and compared as such.

    An interval and the inequality that describes it are equal. ``strict`` False lets variables have other names. What
    math-verify reads by dropping part of an expression is not judged.
    """
    _EXHAUSTED.clear()
    golds, answers = _expressions(gold), _expressions(answer)
    if not golds or all(isinstance(found, str) for found in golds):
        return _said("cannot_judge", "the gold answer cannot be read as mathematics")
    if _is_cut(golds, gold) or _is_cut(answers, answer):
        return _said("cannot_judge", "math-verify drops part of an expression")
    if not answers:
        return _said("incorrect", "there is no expression in the answer")
    if mv.verify(golds, answers, strict=strict, allow_set_relation_comp=True, timeout_seconds=None):
        return _said("correct", "equal as expressions")
    if all(isinstance(found, str) for found in answers):
        return _said("incorrect", "the answer cannot be read as mathematics")
    return _said("incorrect", "not equal as expressions")


def _said(verdict: str, reason: str) -> dict[str, str]:
    if verdict == "incorrect" and _EXHAUSTED:
        return {"verdict": "cannot_judge", "reason": _EXHAUSTED[0]}
    return {"verdict": verdict, "reason": reason}


def _expressions(text: str) -> list[Any]:
    """What math-verify finds in ``text``; an expression without delimiters gets them."""
    text = _ROMAN.sub(
        r"{\1}", text
    )  # the numbers e and i in roman type; math-verify would drop them as units
    bare = not _DELIMITED.search(text) and not _PROSE.search(text)
    found = mv.parse(f"${text}$" if bare else text, parsing_timeout=None)
    if bare and all(isinstance(item, str) for item in found):
        found = [*mv.parse(text, parsing_timeout=None), *found]
    return list(found)


def _is_cut(found: list[Any], text: str) -> bool:
    """Whether the passage that was read has unbalanced braces though ``text`` is balanced: it was cut in the middle."""
    passages = [item for item in found if isinstance(item, str)]
    return _is_balanced(text) and not all(_is_balanced(passage) for passage in passages)


def _is_balanced(text: str) -> bool:
    plain = text.replace("\\{", "").replace("\\}", "")
    return plain.count("{") == plain.count("}")
