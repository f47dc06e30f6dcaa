"""Mathematical problems whose answer belongs in a box: what is asked, what keeps the format, and their batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from crucible_ir.errors import ConfigError, DataError
from crucible_train.grading import GradingRules, boxed_answer, cookbook_boxed_answer
from crucible_train.renderers import Message, Renderer
from crucible_train.rl.environment import EnvGroupBuilder
from crucible_train.rl.problem import Grader, ProblemEnv, ProblemGroup

__all__ = [
    "BOX_SUFFIX",
    "Problem",
    "ProblemDataset",
    "ProblemRows",
    "boxed_format",
    "strawberry_prefix",
]

BOX_SUFFIX = " Write your answer in \\boxed{} format."
"""What follows every question, those of GSM8K too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question as the data set has it, and its gold answer.

    Raises:
        DataError: one of them is empty.
    """

    question: str
    answer: str

    def __post_init__(self) -> None:
        for name in ("question", "answer"):
            if not getattr(self, name).strip():
                raise DataError(what=f"the {name} is empty", where=f"Problem.{name}", remedy="leave it out")


class ProblemRows(Sequence[Problem]):
    """Problems of rows ``{"problem": text, "answer": text}``, each made when it is asked for.

    Raises:
        DataError: when a row is reached that has no such text; ``label`` and the row's number are named.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], *, label: str = "row") -> None:
        self._rows = rows
        self._label = label

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        if isinstance(index, slice):
            return [self._problem(place) for place in range(*index.indices(len(self)))]
        return self._problem(range(len(self))[index])

    def _problem(self, place: int) -> Problem:
        row = self._rows[place]
        texts = {name: row.get(name) for name in ("problem", "answer")}
        for name, text in texts.items():
            if not isinstance(text, str) or not text.strip():
                raise DataError(
                    what=f"{name!r} is no text" if not isinstance(text, str) else f"{name!r} is empty",
                    where=f"{self._label} {place + 1}",
                    remedy="load the data set with a mapping whose schema is problem, "
                    "problem_boxed or problem_hashes",
                )
        return Problem(question=str(texts["problem"]), answer=str(texts["answer"]))


def strawberry_prefix() -> tuple[Message, ...]:
    """One question about letters and its boxed answer, put before problems to show the format."""
    return (
        Message(role="user", content="How many r's are in strawberry?" + BOX_SUFFIX),
        Message(
            role="assistant",
            content="Let's spell the word out and number all the letters: 1) s 2) t 3) r 4) a 5) w 6) b 7) e 8) r"
            " 9) r 10) y. We have r's at positions 3, 8, and 9. \\boxed{3}",
        ),
    )


def boxed_format(rules: GradingRules = "careful") -> Callable[[str], bool]:
    """Whether a text has a boxed answer, found as the grader of these rules finds it."""
    extract = boxed_answer if rules == "careful" else cookbook_boxed_answer
    return lambda text: extract(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemDataset:
    """Batches of ``batch_size`` problems in the order given, each tried by ``group_size`` members.

    The last batch holds what is left, so there are ⌈n / batch_size⌉. The prompt is ``prefix`` and then the question
    with ``suffix``. ``grader_for`` makes the grader of a gold answer, which judges the whole text of a
    response (``MathGrader.for_gold`` does).

    Raises:
        ConfigError: a size below 1, or a ``format_coef`` that is negative or no number.
        DataError: there is no problem.
    """

    problems: Sequence[Problem]
    renderer: Renderer
    grader_for: Callable[[str], Grader]
    batch_size: int
    group_size: int
    prefix: tuple[Message, ...] = ()
    suffix: str = BOX_SUFFIX
    rules: GradingRules = "careful"
    """How a box is found; those of the grader."""
    format_coef: float = 0.1
    require_stop_sequence: bool = True
    dataset_name: str = "problems"

    def __post_init__(self) -> None:
        for name in ("batch_size", "group_size"):
            if getattr(self, name) < 1:
                raise ConfigError(what=f"{name} = {getattr(self, name)}", where=name, remedy="give 1 or more")
        if not (math.isfinite(self.format_coef) and self.format_coef >= 0):
            raise ConfigError(
                what=f"format_coef = {self.format_coef}", where="format_coef", remedy="give 0 or more"
            )
        if not len(self.problems):
            raise DataError(
                what="there are no problems",
                where=self.dataset_name,
                remedy="give a data set that holds some",
            )

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(len(self.problems) / self.batch_size)

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """The groups of one batch.

        Raises:
            ConfigError: there is no batch of this number.
        """
        if not 0 <= index < len(self):
            raise ConfigError(
                what=f"batch {index} of {len(self)}", where="index", remedy=f"give 0 to {len(self) - 1}"
            )
        start = index * self.batch_size
        return [
            ProblemGroup(env=self.env(problem), num_envs=self.group_size, dataset_name=self.dataset_name)
            for problem in self.problems[start : start + self.batch_size]
        ]

    def env(self, problem: Problem) -> ProblemEnv:
        """One attempt at one problem."""
        return ProblemEnv(
            question=problem.question + self.suffix,
            renderer=self.renderer,
            grader=self.grader_for(problem.answer),
            check_format=boxed_format(self.rules),
            prefix=self.prefix,
            reference_answer=problem.answer,
            format_coef=self.format_coef,
            require_stop_sequence=self.require_stop_sequence,
        )
