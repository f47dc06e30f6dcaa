"""What graders say: correct, incorrect, or that they cannot judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, unique

__all__ = ["Grade", "Judgement", "Verdict", "combine"]


@unique
class Verdict(StrEnum):
    """The three values of a grader; the third is no score at all, least of all zero."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    CANNOT_JUDGE = "cannot_judge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one judge says, and why."""

    judge: str
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """The verdict on one answer, with what each judge said."""

    verdict: Verdict
    judgements: tuple[Judgement, ...]

    @property
    def reward(self) -> float | None:
        """1 for correct, 0 for incorrect, None where nobody could judge."""
        if self.verdict is Verdict.CANNOT_JUDGE:
            return None
        return 1.0 if self.verdict is Verdict.CORRECT else 0.0

    @property
    def reason(self) -> str:
        """The reasons that lead to the verdict, one after the other."""
        return "; ".join(f"{j.judge}: {j.reason}" for j in self.judgements if j.verdict is self.verdict)


def combine(judgements: Sequence[Judgement]) -> Grade:
    """One verdict out of several: correct as soon as one judge says so, incorrect only when all who were asked say so.

    A judge that failed leaves the question open, since it might have said correct; so does asking nobody.
    """
    verdicts = {judgement.verdict for judgement in judgements}
    if Verdict.CORRECT in verdicts:
        verdict = Verdict.CORRECT
    elif verdicts == {Verdict.INCORRECT}:
        verdict = Verdict.INCORRECT
    else:
        verdict = Verdict.CANNOT_JUDGE
    return Grade(verdict=verdict, judgements=tuple(judgements))
