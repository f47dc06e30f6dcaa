"""Final answers are found in texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_train.grading import boxed_answer, cookbook_boxed_answer, gsm8k_answer

BALANCED = st.recursive(
    st.text("ab1+ ", max_size=4), lambda inner: inner.map(lambda text: f"x{{{text}}}y"), max_leaves=6
)


def recorded(out: Any) -> str | None:
    """What upstream gave; None where it raised."""
    return None if isinstance(out, dict) else str(out)


def test_every_recorded_boxed_answer_is_read_as_upstream_reads_it(
    golden: Callable[[str], dict[str, Any]],
) -> None:
    cases = golden("math_grading")["extract_boxed"]
    assert len(cases) == 18
    assert [cookbook_boxed_answer(case["text"]) for case in cases] == [
        recorded(case["out"]) for case in cases
    ]


def test_ours_differs_from_upstream_for_escaped_braces_alone(
    golden: Callable[[str], dict[str, Any]],
) -> None:
    cases = golden("math_grading")["extract_boxed"]
    differing = {
        case["text"]: boxed_answer(case["text"])
        for case in cases
        if boxed_answer(case["text"]) != recorded(case["out"])
    }
    assert differing == {"\\boxed{a\\}b}": "a\\}b"}


def test_every_recorded_gsm8k_answer_is_read_as_upstream_reads_it(
    golden: Callable[[str], dict[str, Any]],
) -> None:
    cases = golden("math_grading")["gsm8k"]
    assert len(cases) == 10
    assert [gsm8k_answer(case["text"]) for case in cases] == [recorded(case["out"]) for case in cases]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a } stray one, then \\boxed{5}", "5"),
        ("\\boxed{\\frac{1}{2}} and \\boxed{unclosed", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{a \\\\ b}", "a \\\\ b"),
        ("nothing", None),
    ],
)
def test_braces_that_are_signs_or_strays_do_not_hide_a_box(text: str, answer: str | None) -> None:
    assert boxed_answer(text) == answer


@given(before=BALANCED, content=BALANCED, after=st.text("ab {", max_size=5))
def test_the_last_box_is_found_whatever_stands_around_it(before: str, content: str, after: str) -> None:
    text = f"{before}\\boxed{{0}} \\boxed{{{content}}}{after}"
    assert boxed_answer(text) == cookbook_boxed_answer(text) == content


@given(st.text("\\boxed{} 5#:,\n", max_size=40))
def test_no_text_breaks_the_extraction(text: str) -> None:
    for extract in (boxed_answer, cookbook_boxed_answer, gsm8k_answer):
        found = extract(text)
        assert found is None or isinstance(found, str)


@pytest.mark.parametrize(
    "noise",
    [
        "{" * 100_000 + "}" * 100_000,
        "\\" * 200_000,
        "\\boxed{" * 50_000,
        "\\boxed " * 50_000,
        "####\n" * 50_000,
    ],
)
@pytest.mark.timeout(20)
def test_a_long_senseless_response_is_read_in_one_pass(noise: str) -> None:
    assert boxed_answer(f"{noise}\n\\boxed{{1}}") == "1"
    assert cookbook_boxed_answer(f"{noise}\n\\boxed{{1}}") == "1"
    assert gsm8k_answer(f"{noise}\n#### 1") == "1"
