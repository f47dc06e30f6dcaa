"""A grader of mathematical answers: pure code first, then judges behind a PythonBridge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Literal, get_args

from crucible_ir import ConfigError, nearest
from crucible_ir.contract import JsonValue
from crucible_train.grading.extraction import boxed_answer, cookbook_boxed_answer
from crucible_train.grading.normal_form import mathd_form
from crucible_train.grading.numbers import read_in_base, read_number
from crucible_train.grading.verdict import Grade, Judgement, Verdict, combine

if TYPE_CHECKING:  # workers import this package, and need no more of it than the pure code
    from crucible_train.ports import BridgeReply, PythonBridge

__all__ = ["GradingRules", "MathGrader"]

GradingRules = Literal["careful", "cookbook_exact"]
"""``careful``: what is mathematically right. ``cookbook_exact``: what tinker-cookbook says, right or wrong."""


class MathGrader:
    """Compares answers with gold answers; three values, and a reason from each judge.

    ``careful`` asks, until one is sure: equal text, exact numbers, math-verify with the gold answer first.
    ``cookbook_exact`` follows tinker-cookbook's ``grade_answer``. A judge that hangs, crashes, exhausts memory or
    raises cannot judge: that is counted, and never taken for an incorrect answer.

    Raises:
        ConfigError: ``rules`` is neither.
    """

    def __init__(
        self, bridge: PythonBridge, *, rules: GradingRules = "careful", timeout_s: float = 2.0
    ) -> None:
        known = get_args(GradingRules)
        if rules not in known:
            near = nearest(str(rules), known)
            raise ConfigError(
                what=f"there are no grading rules {rules!r}",
                where="rules",
                remedy=f"did you mean {near!r}?" if near else f"rules: {', '.join(known)}",
            )
        self._bridge = bridge
        self._rules = rules
        self._timeout_s = timeout_s
        self._verdicts: Counter[Verdict] = Counter()
        self._faults: Counter[str] = Counter()

    @property
    def rules(self) -> GradingRules:
        """The rules that this grader follows."""
        return self._rules

    @property
    def verdicts(self) -> Mapping[Verdict, int]:
        """How often each verdict was given; every grade counts once."""
        return {verdict: self._verdicts[verdict] for verdict in Verdict}

    @property
    def faults(self) -> Mapping[str, int]:
        """How often a judge failed, by fault of the bridge (``timeout``, ``memory``, ``crash``, ...)."""
        return dict(self._faults)

    def metrics(self) -> dict[str, float]:
        """Counts under ``grading/``: each verdict, and each fault that occurred."""
        counts = {f"grading/{verdict.value}": float(count) for verdict, count in self.verdicts.items()}
        return counts | {f"grading/fault_{name}": float(n) for name, n in sorted(self._faults.items())}

    async def grade_response(self, response: str, gold: str) -> Grade:
        """The grade of the boxed answer in a whole response; incorrect when there is no box."""
        extract = boxed_answer if self._rules == "careful" else cookbook_boxed_answer
        answer = extract(response)
        if answer is None:
            return self._counted(_said("format", Verdict.INCORRECT, "there is no \\boxed{} in the response"))
        return await self.grade(answer, gold)

    def for_gold(self, gold: str) -> Callable[[str], Awaitable[Verdict]]:
        """The verdict on a whole response to the problem whose gold answer this is, as a problem asks for it."""

        async def judge(response: str) -> Verdict:
            return (await self.grade_response(response, gold)).verdict

        return judge

    async def grade(self, answer: str, gold: str) -> Grade:
        """The grade of ``answer``, which is the bare answer or a text that holds one, against ``gold``."""
        if self._rules == "cookbook_exact":
            return await self._cookbook(answer, gold)
        sure = _by_text(answer, gold) or _by_number(answer, gold)
        if sure is not None:
            return self._counted(sure)
        return self._counted(await self._ask("math_verify", answer, gold))

    async def _cookbook(self, answer: str, gold: str) -> Grade:
        if mathd_form(answer) == mathd_form(gold):
            return self._counted(_said("text", Verdict.CORRECT, "equal MATH normal forms"))
        return self._counted(await self._ask("cookbook_exact", answer, gold))

    async def _ask(self, judge: str, answer: str, gold: str) -> Judgement:
        arguments: dict[str, JsonValue] = {"answer": answer, "gold": gold}
        reply = await self._bridge.call(judge, arguments, timeout_s=self._timeout_s)
        if reply.fault is not None:
            self._faults[reply.fault] += 1
        return _judgement(judge, reply)

    def _counted(self, judgement: Judgement) -> Grade:
        grade = combine([judgement])
        self._verdicts[grade.verdict] += 1
        return grade


def _said(judge: str, verdict: Verdict, reason: str) -> Judgement:
    return Judgement(judge=judge, verdict=verdict, reason=reason)


def _judgement(judge: str, reply: BridgeReply) -> Judgement:
    if reply.fault is not None:
        return _said(judge, Verdict.CANNOT_JUDGE, f"{reply.fault}: {reply.message}")
    return _said(judge, Verdict(reply.value["verdict"]), str(reply.value["reason"]))


def _by_text(answer: str, gold: str) -> Judgement | None:
    if not gold.strip():
        return _said("text", Verdict.CANNOT_JUDGE, "the gold answer is empty")
    if not answer.strip():
        return _said("text", Verdict.INCORRECT, "the answer is empty")
    if _bare(answer) == _bare(gold):
        return _said("text", Verdict.CORRECT, "equal texts")
    return None


def _bare(text: str) -> str:
    """The text without blanks at its ends, doubled blanks, and dollar signs around it."""
    return " ".join(text.split()).strip("$").strip()


def _by_number(answer: str, gold: str) -> Judgement | None:
    """Equal numbers are correct; unequal integers are not; other numbers may still be meant as roundings."""
    based = read_in_base(gold), read_in_base(answer)
    if None not in based:
        verdict = Verdict.CORRECT if based[0] == based[1] else Verdict.INCORRECT
        return _said("number", verdict, f"{based[1]} and {based[0]} in base ten")
    expected, given = read_number(gold), read_number(answer)
    if expected is None or given is None:
        return None
    if expected == given:
        return _said("number", Verdict.CORRECT, f"both are {expected}")
    if expected.denominator == given.denominator == 1:
        return _said("number", Verdict.INCORRECT, f"{given} is not {expected}")
    return None
