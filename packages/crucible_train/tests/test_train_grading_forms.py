"""Normal forms, numbers and the pure parts of the cookbook's chain."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_train.grading import (
    cookbook_correct,
    mathd_form,
    may_be_evaluated,
    prm_form,
    read_number,
    split_elements,
)
from crucible_train.grading.normal_form import is_integer_text, strip_thousands


def plain(text: str) -> str | None:
    raise AssertionError(f"asked to read {text!r}")


def test_every_recorded_mathd_form_is_ours(golden: Callable[[str], dict[str, Any]]) -> None:
    pairs = golden("math_grading")["pairs"]
    sides = [(pair[side], pair[f"mathd_normalize_{side}"]) for pair in pairs for side in ("given", "gold")]
    assert len(sides) == 246
    assert [mathd_form(text) for text, _ in sides] == [form for _, form in sides]


def test_every_recorded_prm_form_of_plain_text_is_ours(golden: Callable[[str], dict[str, Any]]) -> None:
    pairs = golden("math_grading")["pairs"]
    sides = [(pair[side], pair[f"prm_normalize_{side}"]) for pair in pairs for side in ("given", "gold")]
    texts = [(text, form) for text, form in sides if "\\" not in text]
    assert len(texts) > 100
    assert [prm_form(text, plain) for text, _ in texts] == [form for _, form in texts]


def test_the_recorded_helpers_agree(golden: Callable[[str], dict[str, Any]]) -> None:
    ours: dict[str, Callable[[str], Any]] = {
        "_strip_properly_formatted_commas": strip_thousands,
        "_str_is_int": is_integer_text,
        "should_allow_eval": may_be_evaluated,
    }
    cases = [case for case in golden("math_grading")["helpers"] if case["fn"] in ours]
    assert len(cases) == 17
    assert [ours[case["fn"]](case["in"]) for case in cases] == [case["out"] for case in cases]


def test_recorded_tuples_are_split_as_upstream_splits_them(golden: Callable[[str], dict[str, Any]]) -> None:
    cases = golden("math_grading")["split_tuple"]
    assert len(cases) == 9
    assert [split_elements(case["expr"]) for case in cases] == [case["out"] for case in cases]


@pytest.mark.parametrize(
    "text", ["\\frac", "1/02", "5\\text{ cm}\\text{ x}", "\\frac1", "\\text{}", "", "a=b=c"]
)
def test_a_text_that_breaks_off_keeps_its_form(text: str) -> None:
    assert mathd_form(text) == text


def test_a_root_of_nothing_gets_braces() -> None:
    assert mathd_form("2\\sqrt") == "2\\sqrt{}"


@given(st.text("\\frac{}12sqrt/=.$%^ \n", max_size=24))
def test_no_text_breaks_a_normal_form(text: str) -> None:
    assert isinstance(mathd_form(text), str)
    assert isinstance(prm_form(text, lambda latex: None), str)


def test_latex_that_cannot_be_read_stays_as_it_is() -> None:
    assert prm_form("\\Nonsense X", lambda latex: None) == "\\nonsensex"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", Fraction(42)),
        ("-1,234,567", Fraction(-1234567)),
        (".5", Fraction(1, 2)),
        ("5.", Fraction(5)),
        ("1.50", Fraction(3, 2)),
        ("1e3", Fraction(1000)),
        ("2.5E-1", Fraction(1, 4)),
        ("- 5", Fraction(-5)),
        ("-\\$5", Fraction(-5)),
        ("$18.90$", Fraction(189, 10)),
        ("\\$18.90", Fraction(189, 10)),
        ("1\\,000", Fraction(1000)),
        ("1,\\!000", Fraction(1000)),
        ("2/4", Fraction(1, 2)),
        ("1 1/2", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        ("\\frac{2}{4}", Fraction(1, 2)),
        ("-\\frac{1}{2}", Fraction(-1, 2)),
        ("\\frac{-1}{2}", Fraction(-1, 2)),
        ("\\dfrac12", Fraction(1, 2)),
        ("1\\frac{2}{7}", Fraction(9, 7)),
        ("1.5 billion", Fraction(1_500_000_000)),
        ("0", Fraction(0)),
        ("-0", Fraction(0)),
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction) -> None:
    assert read_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1,22",
        "1,000,2",
        "50%",
        "1/0",
        "5 cm",
        "--5",
        "+-5",
        "1e9999",
        "9" * 300,
        "0x10",
        "1_000",
        "٣",
        "12:30",
    ],
)
def test_what_is_no_plain_number_is_not_read(text: str) -> None:
    assert read_number(text) is None


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_a_ratio_reads_back(above: int, below: int) -> None:
    assert (
        read_number(f"{above}/{below}")
        == read_number(f"\\frac{{{above}}}{{{below}}}")
        == Fraction(above, below)
    )


@given(st.integers(-(10**12), 10**12))
def test_an_integer_reads_back_with_and_without_thousands(value: int) -> None:
    assert read_number(f"{value:,}") == read_number(str(value)) == value


def test_the_cookbook_asks_for_no_difference_that_could_run_away() -> None:
    asked: list[str] = []

    def is_zero(difference: str) -> bool:
        asked.append(difference)
        return True

    def judge(answer: str, gold: str) -> bool:
        return cookbook_correct(answer, gold, latex_to_text=lambda latex: None, is_zero=is_zero)

    assert not judge("x^{99}", "y^99")
    assert not judge("9^99^x", "y")
    assert not judge("a+b+c", "c+b+a")
    assert asked == []
    assert judge("x+1", "1+x")
    assert asked == ["(1+x)-(x+1)"]


def test_the_cookbook_wants_the_same_brackets_and_as_many_elements() -> None:
    def judge(answer: str, gold: str) -> bool:
        return cookbook_correct(
            answer, gold, latex_to_text=lambda latex: None, is_zero=lambda difference: True
        )

    assert judge("(x,y)", "(y,x)")
    assert not judge("[x,y)", "(y,x)")
    assert not judge("(x,y,x)", "(y,x)")
    assert not judge("2/4", "1/2")
    assert not judge("x", "2")
