"""Extraction, normal forms and verdicts of mathematical answers; the careful grader differs by design."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import EQUAL, Ledger
from tinker_cookbook.recipes.math_rl import arithmetic_env, math_env, math_grading

from crucible_kitchen.adapters.math_functions import cookbook_exact, prm_normal_form
from crucible_train.grading import (
    cookbook_boxed_answer,
    gsm8k_answer,
    mathd_form,
    may_be_evaluated,
    split_elements,
)
from crucible_train.grading.normal_form import is_integer_text, strip_thousands
from crucible_train.rl import final_integer

PIECES = (
    *(
        "0",
        "1",
        "2",
        "12",
        "3.5",
        ".5",
        "5.",
        "1,000",
        "1,23",
        "12,345,678",
        "-",
        " - ",
        "+",
        "/",
        "*",
        "^",
        "^2",
    ),
    *("^{10}", "^\\circ", "^{\\circ}", "\\frac", "\\frac12", "\\frac{1}{2}", "\\dfrac{3}{4}", "\\tfrac1{72}"),
    *("\\sqrt", "\\sqrt3", "\\sqrt{2}", "\\pi", "\\infty", "\\cdot", "\\times", "\\cup", "\\left", "\\right"),
    *(
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ", ",
        "\\{",
        "\\}",
        "=",
        "x",
        "y",
        "x=",
        "ab=",
        "\\text{ cm}",
        "\\text{a}",
    ),
    *(
        "\\$",
        "$",
        "\\%",
        "%",
        "\\!",
        "\\\\",
        "\n",
        " ",
        " or ",
        " and ",
        "million",
        "5 degrees",
        "3 feet",
        "cm^2",
    ),
    *(
        "inches",
        "\\mathrm{i}",
        "e",
        "1e3",
        "inf",
        "nan",
        "True",
        "π",
        "½",
        "٣",
        "\\boxed",
        "\\boxed{",
        "\\boxed 7",
    ),
)
written = st.lists(st.sampled_from(PIECES), max_size=7).map("".join) | st.text(
    "\\frac{}12sqrt/=.$%^ ,()[]-xy\n", max_size=16
)


def upstream(compute: Callable[[], Any]) -> Any:
    """What upstream gives; a ValueError is its word for None."""
    try:
        return compute()
    except ValueError:
        return None


def note(ledger: Ledger, area: str, ours: Any, theirs: Any, case: Any) -> None:
    ledger.note(area, EQUAL if ours == theirs else f"{ours!r} and not {theirs!r}", case)


def test_boxes_and_hashes_are_read_as_upstream_reads_them(ledger: Ledger) -> None:
    boxes = st.sampled_from(
        ("\\boxed{", "}", "{", "\\boxed 5", "\\boxed  ab", "\\boxed", "3", "\\frac12", "\\}", "x")
    )
    lines = st.sampled_from(
        ("#### 12", "####: 1,200", "text", " #### x ", "so #### 5", "####", "\n", "\r", "a", "1")
    )

    @settings(max_examples=1500)
    @given(st.lists(boxes, max_size=8).map("".join) | written, st.lists(lines, max_size=6))
    def check(boxed: str, hashed: list[str]) -> None:
        theirs = upstream(lambda: math_grading.extract_boxed(boxed))
        note(ledger, "boxed answers", cookbook_boxed_answer(boxed), theirs, boxed)
        for text in ("\n".join(hashed), " ".join(hashed)):
            theirs = upstream(lambda text=text: math_env.extract_gsm8k_final_answer(text))
            note(ledger, "answers after ####", gsm8k_answer(text), theirs, text)
        last = arithmetic_env._extract_final_int(boxed)
        note(ledger, "last integers", final_integer(boxed), last, boxed)

    check()


def test_normal_forms_are_those_of_upstream(ledger: Ledger) -> None:
    @settings(max_examples=1500)
    @given(written)
    def check(text: str) -> None:
        note(ledger, "MATH forms", mathd_form(text), math_grading.normalize_answer(text), text)
        ours, theirs = prm_normal_form(text=text), math_grading._normalize(text)
        note(ledger, "PRM800K forms", ours, theirs, text)
        note(ledger, "elements", split_elements(ours), math_grading.split_tuple(ours), text)
        note(ledger, "may be evaluated", may_be_evaluated(ours), math_grading.should_allow_eval(ours), text)
        note(ledger, "integers", is_integer_text(text), math_grading._str_is_int(text), text)
        theirs = math_grading._strip_properly_formatted_commas(text)
        note(ledger, "thousands", strip_thousands(text), theirs, text)

    check()


def small(text: str) -> bool:
    """Without a tower or a long number in a power, over which sympy would sit for minutes on both sides."""
    return not re.search(r"\d{5}|\^.*\^|\*\*", text)


def test_verdicts_are_those_of_upstream(ledger: Ledger) -> None:
    simple = st.sampled_from(
        (
            *(
                "1/2",
                "0.5",
                "\\frac{1}{2}",
                "\\frac12",
                "2/4",
                "3",
                "3.0",
                "03",
                "1,000",
                "1000",
                "(1,2)",
                "(2,1)",
            ),
            *(
                "[1,2]",
                "x+1",
                "1+x",
                "2x",
                "x*2",
                "\\sqrt{4}",
                "2",
                "\\pi",
                "pi",
                "50\\%",
                "50",
                "x^2-1",
                "(x-1)(x+1)",
            ),
            *(
                "\\text{yes}",
                "yes",
                "No",
                "5\\text{ cm}",
                "5 cm",
                "x=5",
                "5",
                "1 1/2",
                "3/2",
                "-\\frac{1}{2}",
                "-0.5",
            ),
            *(
                "10^3",
                "\\{1,2\\}",
                "1 or 2",
                "\\infty",
                "2\\sqrt{2}",
                "\\sqrt{8}",
                "",
                "sin(x)^2+cos(x)^2",
                "1",
            ),
        )
    )
    answer = simple | written.filter(small)

    @settings(max_examples=1000)
    @given(answer, answer)
    def check(given_answer: str, gold: str) -> None:
        ours = cookbook_exact(answer=given_answer, gold=gold)["verdict"] == "correct"
        theirs = math_grading.grade_answer(given_answer, gold)
        note(ledger, "verdicts (`cookbook_exact`)", ours, bool(theirs), (given_answer, gold))

    check()
