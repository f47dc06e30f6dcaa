"""How verdicts of several judges become one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_train.grading import Judgement, Verdict, combine

YES, NO, OPEN = Verdict.CORRECT, Verdict.INCORRECT, Verdict.CANNOT_JUDGE


def said(*verdicts: Verdict) -> list[Judgement]:
    return [
        Judgement(judge=f"judge {n}", verdict=verdict, reason=f"because {n}")
        for n, verdict in enumerate(verdicts)
    ]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((YES,), YES),
        ((NO,), NO),
        ((OPEN,), OPEN),
        ((), OPEN),
        ((NO, YES), YES),
        ((OPEN, YES), YES),
        ((NO, OPEN), OPEN),
        ((NO, NO), NO),
    ],
)
def test_one_verdict_comes_of_several(verdicts: tuple[Verdict, ...], expected: Verdict) -> None:
    assert combine(said(*verdicts)).verdict is expected


@given(st.lists(st.sampled_from([NO, OPEN]), max_size=5), st.integers(0, 5))
def test_a_judge_that_failed_never_lets_the_others_say_incorrect(rest: list[Verdict], place: int) -> None:
    verdicts = [*rest[:place], OPEN, *rest[place:]]
    grade = combine(said(*verdicts))
    assert grade.verdict is OPEN
    assert grade.reward is None


@given(st.permutations([YES, NO, OPEN, NO]))
def test_the_order_of_judges_does_not_matter(verdicts: list[Verdict]) -> None:
    assert combine(said(*verdicts)).verdict is YES


def test_a_grade_tells_its_reward_and_reason() -> None:
    grade = combine(said(NO, YES, YES))
    assert grade.reward == 1.0
    assert grade.reason == "judge 1: because 1; judge 2: because 2"
    assert combine(said(NO)).reward == 0.0
