"""Small arithmetic: problems, which of them are held out, and the ways a text speaks of them."""

import zlib
from dataclasses import dataclass

import numpy as np

from world import VISITORS, people, pick

FRUITS = ("apples", "pears", "nuts", "shells", "coins", "eggs", "stones", "flowers", "buttons", "cakes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`left operator right`, operator + or -, every number from 0 to 100 and no answer below 0."""

    left: int
    operator: str
    right: int

    @property
    def answer(self) -> int:
        """The value of the expression."""
        return self.left + self.right if self.operator == "+" else self.left - self.right

    @property
    def text(self) -> str:
        """The expression as it is written."""
        return f"{self.left} {self.operator} {self.right}"

    @property
    def held_out(self) -> bool:
        """Whether no training text may show this problem: a fixed tenth of them, by a checksum of the text."""
        return zlib.crc32(self.text.encode()) % 10 == 0


def problem(rng: np.random.Generator, *, held_out: bool = False, limit: int | None = None) -> Problem:
    """A problem from the chosen side of the held-out line. Numbers up to `limit`; a mix of sizes where it is None."""
    while True:
        top = limit if limit is not None else int((10, 20, 100, 100)[rng.integers(4)])
        left, right = int(rng.integers(top + 1)), int(rng.integers(top + 1))
        operator = "+" if rng.random() < 0.75 else "-"
        if operator == "-" and right > left:
            left, right = right, left
        found = Problem(left=left, operator=operator, right=right)
        if found.held_out == held_out:
            return found


def sum_list(rng: np.random.Generator) -> str:
    """A page of sums, one a line."""
    lines = [problem(rng) for _ in range(int(rng.integers(3, 9)))]
    return "\n".join(f"{line.text} = {line.answer}" for line in lines)


def sum_question(rng: np.random.Generator) -> tuple[str, str]:
    """A question about a sum, and the answer: the number alone."""
    asked = problem(rng)
    return f"What is {asked.text}?", str(asked.answer)


def sum_story(rng: np.random.Generator) -> str:
    """Two or three sentences in which somebody gains or loses something countable."""
    told = problem(rng, limit=20)
    names = [*people(), *VISITORS]
    one, other, fruit = pick(rng, names), pick(rng, names), pick(rng, FRUITS)
    if told.operator == "+":
        middle = pick(
            rng,
            (
                f"{other} gives {one} {told.right} more.",
                f"Then {one} finds {told.right} more.",
                f"{other} brings {told.right} more {fruit}.",
            ),
        )
    else:
        middle = pick(
            rng,
            (
                f"{one} gives {told.right} to {other}.",
                f"Then {one} loses {told.right} of them.",
                f"{other} takes {told.right} of the {fruit}.",
            ),
        )
    return f"{one} has {told.left} {fruit}. {middle} Now {one} has {told.answer} {fruit}."
