"""Graders over the real workers: answers that hang, exhaust memory or try to run code; speed; exact parity."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.adapters.math_bridge import MathBridge
from crucible_train.grading import Grade, MathGrader, Verdict
from crucible_train.grading.grader import GradingRules

LEAST_VERDICTS_PER_S = 100


@pytest.fixture(scope="module")
def bridge() -> Iterator[MathBridge]:
    made = MathBridge(workers=1)
    yield made
    asyncio.run(made.close())


@pytest.fixture(scope="module")
def golden(pytestconfig: pytest.Config) -> list[dict[str, Any]]:
    packed = pytestconfig.rootpath / "packages/crucible_train/tests/golden/math_grading.json.gz"
    pairs: list[dict[str, Any]] = json.loads(gzip.decompress(packed.read_bytes()))["pairs"]
    return pairs


def grade(grader: MathGrader, answer: str, gold: str) -> Grade:
    return asyncio.run(grader.grade(answer, gold))


@pytest.mark.parametrize(
    ("rules", "answer", "gold"),
    [
        ("cookbook_exact", "10**10**10", "x"),
        ("cookbook_exact", "1000000000!", "x"),
        ("careful", "10^{10^{10}}", "5"),
        ("careful", "(" * 3000 + "1" + ")" * 3000, "2x"),
    ],
)
def test_an_answer_that_hangs_its_grader_cannot_be_judged_and_the_next_one_can(
    bridge: MathBridge, rules: GradingRules, answer: str, gold: str
) -> None:
    grader = MathGrader(bridge, rules=rules, timeout_s=0.5)
    started = time.monotonic()
    assert grade(grader, answer, gold).verdict is Verdict.CANNOT_JUDGE
    assert time.monotonic() - started < 60
    patient = MathGrader(bridge, rules=rules, timeout_s=30)
    assert grade(patient, "x+1", "1+x").verdict is Verdict.CORRECT
    assert grader.verdicts[Verdict.INCORRECT] == 0


@pytest.mark.parametrize(
    ("rules", "answer"),
    [("cookbook_exact", "(x+y+1)**2000"), ("careful", "2^{9999999999}+1")],
)
def test_an_answer_that_exhausts_memory_cannot_be_judged(rules: GradingRules, answer: str) -> None:
    bridge = MathBridge(workers=1, memory_mb=512)
    grader = MathGrader(bridge, rules=rules, timeout_s=60)
    result = grade(grader, answer, "x+2")
    again = grade(grader, "y+1", "1+y")
    asyncio.run(bridge.close())
    assert result.verdict is Verdict.CANNOT_JUDGE
    assert set(grader.faults) <= {"memory", "crash"}  # where the last allocation failed decides which
    assert sum(grader.faults.values()) == 1
    assert grader.verdicts[Verdict.INCORRECT] == 0
    assert again.verdict is Verdict.CORRECT


@pytest.mark.parametrize("rules", ["careful", "cookbook_exact"])
def test_a_stack_that_overflows_in_a_parser_is_not_taken_for_an_incorrect_answer(
    bridge: MathBridge, rules: GradingRules
) -> None:
    grader = MathGrader(bridge, rules=rules, timeout_s=60)
    for _ in range(2):  # the second time out of whatever a parser remembers
        result = grade(grader, "\\frac{" * 150 + "1" + "}{2}" * 150, "x+2")
        assert result.verdict is Verdict.CANNOT_JUDGE
        assert "RecursionError" in result.reason


@pytest.mark.parametrize("rules", ["careful", "cookbook_exact"])
@pytest.mark.parametrize(
    "template",
    [
        "__import__('pathlib').Path({path!r}).touch()",
        "open({path!r},'w')",
        "exec(\"open({path!r},'w')\")",
        "().__class__.__base__.__subclasses__()",
        "[o for o in (1).__class__.__mro__]",
        "S(\"open({path!r},'w')\")",
        "\\text{{}}open({path!r},'w')",
    ],
)
def test_an_answer_never_runs_as_code(
    bridge: MathBridge, tmp_path: Path, rules: GradingRules, template: str
) -> None:
    planted = tmp_path / "a"
    answer = template.format(path=str(planted))
    grader = MathGrader(bridge, rules=rules, timeout_s=60)
    assert grade(grader, answer, "x").verdict is not Verdict.CORRECT
    assert not planted.exists()


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("aa.__aa__", "a name of the interpreter"),
        ("(x).aa", "an attribute of a value"),
        ("x5.aa", "an attribute of a name"),
        ("'a'", "a text"),
        ("[x]", "a list"),
        ("x:=1", "an assignment"),
    ],
)
def test_what_is_evaluated_holds_no_more_than_letters_digits_and_operators(
    expression: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crucible_kitchen.adapters import math_functions

    def evaluated(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"{expression!r} ({why}) was evaluated")

    monkeypatch.setattr(math_functions.sympy_parser, "parse_expr", evaluated)
    assert math_functions._is_zero(expression) is False


def test_the_exact_grader_gives_every_recorded_verdict_of_the_cookbook(
    bridge: MathBridge, golden: list[dict[str, Any]]
) -> None:
    grader = MathGrader(bridge, rules="cookbook_exact", timeout_s=60)
    verdicts = [grade(grader, pair["given"], pair["gold"]).verdict for pair in golden]
    assert [verdict is Verdict.CORRECT for verdict in verdicts] == [pair["grade_answer"] for pair in golden]
    assert Verdict.CANNOT_JUDGE not in verdicts


def test_every_recorded_prm_form_is_ours(bridge: MathBridge, golden: list[dict[str, Any]]) -> None:
    sides = [(pair[side], pair[f"prm_normalize_{side}"]) for pair in golden for side in ("given", "gold")]
    forms = [bridge.call("prm_form", {"text": text}).result(60).value for text, _ in sides]
    assert forms == [form for _, form in sides]


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("5 or 6", "5", Verdict.INCORRECT),
        ("Tues", "Tuesday", Verdict.INCORRECT),
        ("3.0000001", "3", Verdict.INCORRECT),
        ("(1,2)", "(2,1)", Verdict.INCORRECT),
        ("[1,2)", "(1,2]", Verdict.INCORRECT),
        ("\\{1,2\\}", "\\{2,1\\}", Verdict.CORRECT),
        ("\\frac{2}{4}", "\\frac{1}{2}", Verdict.CORRECT),
        ("\\binom{5}{2}", "10", Verdict.CORRECT),
        ("x>2", "(2,\\infty)", Verdict.CORRECT),
        ("1 - \\frac{1}{\\mathrm{e}}", "1 + \\frac{1}{\\mathrm{e}}", Verdict.INCORRECT),
        ("1-e^{-1}", "1 - \\frac{1}{\\mathrm{e}}", Verdict.CORRECT),
        ("5\\mathrm{e}", "5", Verdict.INCORRECT),
        ("1 - \\frac{1}{\\text{m}}", "1 + \\frac{1}{\\text{m}}", Verdict.CANNOT_JUDGE),
        ("I don't know", "5", Verdict.INCORRECT),
        ("\\sin^2 x + \\cos^2 x", "1", Verdict.CORRECT),
    ],
)
def test_the_careful_grader_is_right_where_others_are_not(
    bridge: MathBridge, answer: str, gold: str, verdict: Verdict
) -> None:
    result = grade(MathGrader(bridge, timeout_s=60), answer, gold)
    assert result.verdict is verdict, result


@pytest.mark.parametrize("function", ["cookbook_exact", "math_verify"])
def test_one_warm_worker_gives_a_hundred_simple_verdicts_a_second_of_its_own_time(
    bridge: MathBridge, function: str
) -> None:
    """Simple: what its judges see, but for plain numbers, which never reach a worker."""
    pairs = [(f"{n}x+{n + 1}", f"{n + 1}+{n}x") for n in range(1, 51)]
    pairs += [(f"\\frac{{{n}}}{{7}}", f"{n + 1}/7") for n in range(1, 51)]

    def ask(answer: str, gold: str) -> str:
        reply = bridge.call(function, {"answer": answer, "gold": gold}, timeout_s=60).result(60)
        assert reply.fault is None, reply
        return str(reply.value["verdict"])

    ask(*pairs[0])
    (process,) = bridge._workers.idle
    before = processor_seconds(process.pid)
    verdicts = [ask(*pair) for pair in pairs]
    spent = processor_seconds(process.pid) - before
    assert verdicts.count("correct") >= 50
    assert len(pairs) / max(spent, 1e-9) >= LEAST_VERDICTS_PER_S


def processor_seconds(pid: int) -> float:
    """Processor time of a process, so that a busy machine does not count."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
