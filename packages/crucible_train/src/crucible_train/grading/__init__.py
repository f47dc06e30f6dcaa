"""Grading of mathematical answers: extraction, normal forms, and verdicts of three values."""

from crucible_train.grading.cookbook import cookbook_correct, may_be_evaluated, split_elements
from crucible_train.grading.extraction import boxed_answer, cookbook_boxed_answer, gsm8k_answer
from crucible_train.grading.grader import GradingRules, MathGrader
from crucible_train.grading.normal_form import mathd_form, prm_form
from crucible_train.grading.numbers import read_in_base, read_number
from crucible_train.grading.verdict import Grade, Judgement, Verdict, combine

__all__ = [
    "Grade",
    "GradingRules",
    "Judgement",
    "MathGrader",
    "Verdict",
    "boxed_answer",
    "combine",
    "cookbook_boxed_answer",
    "cookbook_correct",
    "gsm8k_answer",
    "mathd_form",
    "may_be_evaluated",
    "prm_form",
    "read_in_base",
    "read_number",
    "split_elements",
]
