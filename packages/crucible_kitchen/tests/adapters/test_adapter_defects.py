"""Answers that the listed graders judge wrongly, judged by ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from crucible_kitchen.adapters.math_bridge import MathBridge
from crucible_train.grading import MathGrader, Verdict

RIGHT = [
    ("\\frac{2}{4}", "\\frac{1}{2}"),
    ("\\sqrt{4}", "2"),
    ("2^{10}", "1024"),
    ("10^{3}", "1000"),
    ("75\\%", ".75"),
    ("4!", "24"),
    ("\\binom{4}{2}", "6"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("5,", "5"),
]
WRONG = [("Tues", "Tuesday"), ("3.0000001", "3"), ("5 or 6", "5")]


@pytest.fixture(scope="module")
def bridge() -> Iterator[MathBridge]:
    made = MathBridge(workers=1)
    yield made
    asyncio.run(made.close())


@pytest.mark.parametrize(("answer", "gold"), RIGHT)
def test_an_answer_in_another_form_is_right(bridge: MathBridge, answer: str, gold: str) -> None:
    result = asyncio.run(MathGrader(bridge, timeout_s=60).grade(answer, gold))
    assert result.verdict is Verdict.CORRECT, result


@pytest.mark.parametrize(("answer", "gold"), WRONG)
def test_an_answer_that_is_only_like_the_right_one_is_wrong(
    bridge: MathBridge, answer: str, gold: str
) -> None:
    result = asyncio.run(MathGrader(bridge, timeout_s=60).grade(answer, gold))
    assert result.verdict is Verdict.INCORRECT, result
