"""Sums, generated or from rows: the smallest problem with a reward."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from crucible_datasets import example_id
from crucible_ir import Contract, DataError, DatasetSnapshot
from crucible_kitchen.environments.batched import BatchedProblems
from crucible_kitchen.environments.environment import Environment, Environments, HeldOutProblem, Material
from crucible_train.renderers import Message, Renderer
from crucible_train.rl import (
    ArithmeticDataset,
    ProblemEnv,
    ProblemGroup,
    RLDataset,
    arithmetic_env,
    operands,
)

__all__ = ["Arithmetic", "ArithmeticOptions"]

_EXAMPLE = (
    Message(role="user", content="What is 4 + 5?"),
    Message(role="assistant", content="9"),
)
"""The worked example that upstream's arithmetic environment puts before every question."""

_SUM = re.compile(r"What is (\d+) \+ (\d+)\?")


class ArithmeticOptions(Contract):
    """Which sums."""

    n_batches: int = Field(default=100, ge=1)
    """Batches of generated sums; upstream's sums for the same number of the batch."""
    held_out: int = Field(default=0, ge=0)
    """Held-out sums, when no held-out dataset is named; drawn beyond the batches that are trained on."""
    fewshot: bool = True
    """Put a worked example before each question."""
    require_stop_sequence: bool = True
    """An answer that does not end at the renderer's stop sequence is not in the format."""


class Arithmetic(Environment):
    """Sums of two numbers below 101, rewarded when the last integer of the answer is right."""

    options_model = ArithmeticOptions

    def build(self, material: Material) -> Environments:
        """Sums of the datasets (questions ``What is x + y?``) that are named, generated ones otherwise."""
        options: ArithmeticOptions = self.options
        if material.held_out is not None:
            pairs = _sums(material.held_out)
        else:
            pairs = operands(options.n_batches, options.held_out)
        held_out = [self._env(x, y, material.renderer) for x, y in dict.fromkeys(pairs)]
        return Environments(
            train=self._train(material),
            held_out=[
                HeldOutProblem(
                    example_id=example_id({"question": env.question}),
                    builder=ProblemGroup(env=env, num_envs=1, dataset_name="arithmetic"),
                )
                for env in held_out
            ],
        )

    def _train(self, material: Material) -> RLDataset:
        if material.rows is not None:
            return BatchedProblems(
                problems=[self._env(x, y, material.renderer) for x, y in _sums(material.rows)],
                batch_size=material.groups_per_batch,
                group_size=material.group_size,
                dataset_name="arithmetic",
            )
        return ArithmeticDataset(
            renderer=material.renderer,
            batch_size=material.groups_per_batch,
            group_size=material.group_size,
            n_batches=self.options.n_batches,
            prefix=self._prefix(),
            require_stop_sequence=self.options.require_stop_sequence,
        )

    def _prefix(self) -> tuple[Message, ...]:
        return _EXAMPLE if self.options.fewshot else ()

    def _env(self, x: int, y: int, renderer: Renderer) -> ProblemEnv:
        return arithmetic_env(
            x, y, renderer, self._prefix(), require_stop_sequence=self.options.require_stop_sequence
        )


def _sums(snapshot: DatasetSnapshot) -> list[tuple[int, int]]:
    found = []
    for number, row in enumerate(snapshot.rows):
        match = _SUM.fullmatch(_question(row))
        if match is None:
            raise DataError(
                what=f"{_question(row)!r} is no sum",
                where=f"{snapshot.ref.id}, row {number}",
                remedy="give questions such as 'What is 3 + 4?', or choose another environment",
            )
        found.append((int(match[1]), int(match[2])))
    return found


def _question(row: Mapping[str, Any]) -> str:
    return str(row.get("question", row.get("problem", "")))
