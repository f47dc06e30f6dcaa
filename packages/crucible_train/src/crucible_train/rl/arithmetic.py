"""Sums of two numbers below 101: the smallest problem with a reward."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crucible_ir.errors import ConfigError
from crucible_train.renderers import Message, Renderer
from crucible_train.rl.environment import EnvGroupBuilder
from crucible_train.rl.problem import ProblemEnv, ProblemGroup, verdict_of

__all__ = ["ArithmeticDataset", "arithmetic_env", "final_integer", "operands"]

_INTEGER = re.compile(r"-?\d+")


def final_integer(text: str) -> int | None:
    """The last integer of a text once commas are gone; None where there is none.

    A decimal point divides: ``12.5`` ends in 5, and ``1e3`` in 3.
    """
    found = _INTEGER.findall(text.replace(",", ""))
    return int(found[-1]) if found else None


def arithmetic_env(
    x: int,
    y: int,
    renderer: Renderer,
    prefix: Sequence[Message] = (),
    *,
    require_stop_sequence: bool = True,
) -> ProblemEnv:
    """``What is x + y?``, answered by the sum as the last integer, in any words."""
    return ProblemEnv(
        question=f"What is {x} + {y}?",
        renderer=renderer,
        grader=verdict_of(lambda answer: final_integer(answer) == x + y),
        prefix=tuple(prefix),
        reference_answer=str(x + y),
        require_stop_sequence=require_stop_sequence,
    )


def operands(batch: int, count: int) -> list[tuple[int, int]]:
    """The ``count`` pairs of a batch, each number below 101: upstream's, which come of the batch's number alone."""
    legacy = np.random.RandomState(batch)
    return [(int(legacy.randint(0, 101)), int(legacy.randint(0, 101))) for _ in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArithmeticDataset:
    """``n_batches`` batches of ``batch_size`` sums, each tried by ``group_size`` members.

    Raises:
        ConfigError: a size below 1.
    """

    renderer: Renderer
    batch_size: int
    group_size: int
    n_batches: int = 100
    prefix: tuple[Message, ...] = ()
    require_stop_sequence: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "group_size", "n_batches"):
            if getattr(self, name) < 1:
                raise ConfigError(what=f"{name} = {getattr(self, name)}", where=name, remedy="give 1 or more")

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """The groups of one batch."""
        return [
            ProblemGroup(
                env=arithmetic_env(
                    x, y, self.renderer, self.prefix, require_stop_sequence=self.require_stop_sequence
                ),
                num_envs=self.group_size,
                dataset_name="arithmetic",
            )
            for x, y in operands(index, self.batch_size)
        ]

    def __len__(self) -> int:
        """Number of batches."""
        return self.n_batches
