"""The grader over a bridge: what it decides alone, whom it asks, and what it makes of a judge that fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import ConfigError
from crucible_testing.bridge import FakeBridge
from crucible_train.grading import Grade, MathGrader, Verdict
from crucible_train.grading.grader import GradingRules
from crucible_train.ports import BridgeFault

RULES: tuple[GradingRules, ...] = ("careful", "cookbook_exact")
JUDGE = {"careful": "math_verify", "cookbook_exact": "cookbook_exact"}


def judges(verdict: str) -> FakeBridge:
    """A bridge whose judges always give ``verdict``."""

    def judge(**arguments: Any) -> dict[str, str]:
        return {"verdict": verdict, "reason": "because"}

    return FakeBridge(functions={"math_verify": judge, "cookbook_exact": judge})


def grade(grader: MathGrader, answer: str, gold: str) -> Grade:
    return asyncio.run(grader.grade(answer, gold))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("fault", ["timeout", "memory", "crash", "error", "unavailable"])
def test_a_judge_that_fails_is_counted_and_is_never_an_incorrect_answer(
    rules: GradingRules, fault: BridgeFault
) -> None:
    grader = MathGrader(FakeBridge(faults={JUDGE[rules]: fault}), rules=rules)
    for _ in range(3):
        result = grade(grader, "x+1", "1+x")
        assert result.verdict is Verdict.CANNOT_JUDGE
        assert result.reward is None
        assert result.reason == f"{JUDGE[rules]}: {fault}: planted"
    assert grader.metrics() == {
        "grading/correct": 0.0,
        "grading/incorrect": 0.0,
        "grading/cannot_judge": 3.0,
        f"grading/fault_{fault}": 3.0,
    }


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_judge_behind_the_bridge_decides_what_pure_code_cannot(
    rules: GradingRules, verdict: Verdict
) -> None:
    bridge = judges(verdict.value)
    result = grade(MathGrader(bridge, rules=rules), "x+1", "1+x")
    assert result.verdict is verdict
    assert bridge.calls == [(JUDGE[rules], {"answer": "x+1", "gold": "1+x"})]


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("5", "5", Verdict.CORRECT),
        (" $x  +1$ ", "x +1", Verdict.CORRECT),
        ("1,000", "1000.0", Verdict.CORRECT),
        ("\\frac{2}{4}", "0.5", Verdict.CORRECT),
        ("1 1/2", "3/2", Verdict.CORRECT),
        ("5", "6", Verdict.INCORRECT),
        ("", "6", Verdict.INCORRECT),
        ("11_{2}", "3_{10}", Verdict.CORRECT),
        ("11_2", "11_3", Verdict.INCORRECT),
        ("6", "  ", Verdict.CANNOT_JUDGE),
    ],
)
def test_the_careful_grader_decides_the_plain_cases_alone(answer: str, gold: str, verdict: Verdict) -> None:
    bridge = judges("cannot_judge")
    assert grade(MathGrader(bridge), answer, gold).verdict is verdict
    assert bridge.calls == []


def test_numbers_that_may_be_roundings_go_to_the_judge() -> None:
    bridge = judges("correct")
    assert grade(MathGrader(bridge), "0.333333", "1/3").verdict is Verdict.CORRECT
    assert len(bridge.calls) == 1


@given(st.integers(), st.integers())
def test_integers_are_judged_exactly(one: int, other: int) -> None:
    verdict = grade(MathGrader(FakeBridge()), str(one), str(other)).verdict
    if max(len(str(one)), len(str(other))) < 200:
        assert verdict is (Verdict.CORRECT if one == other else Verdict.INCORRECT)


def test_a_response_is_graded_by_its_last_box() -> None:
    grader = MathGrader(judges("cannot_judge"))
    for response, verdict in (
        ("first \\boxed{4}, no: \\boxed{5}.", Verdict.CORRECT),
        ("\\boxed{5} or rather \\boxed{4}", Verdict.INCORRECT),
        ("5", Verdict.INCORRECT),
        ("a stray } and \\boxed{5}", Verdict.CORRECT),
    ):
        assert asyncio.run(grader.grade_response(response, "5")).verdict is verdict
    assert grader.verdicts == {Verdict.CORRECT: 2, Verdict.INCORRECT: 2, Verdict.CANNOT_JUDGE: 0}


def test_under_the_rules_of_the_cookbook_a_stray_brace_voids_the_response() -> None:
    grader = MathGrader(judges("correct"), rules="cookbook_exact")
    result = asyncio.run(grader.grade_response("a stray } and \\boxed{5}", "5"))
    assert result.verdict is Verdict.INCORRECT
    assert result.judgements[0].judge == "format"


def test_unknown_rules_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'cookbook_exact'"):
        MathGrader(FakeBridge(), rules="cookbook_exakt")  # type: ignore[arg-type]
