"""Sums, generated or from rows: the smallest problem with a reward."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from crucible_datasets import example_id
from crucible_ir import ConfigError, Contract, DataError, DatasetSnapshot, Problem
from crucible_kitchen.engine.context import PlanContext
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
from crucible_train.seeds import generator

__all__ = ["Arithmetic", "ArithmeticOptions"]

_EXAMPLE = (
    Message(role="user", content="What is 4 + 5?"),
    Message(role="assistant", content="9"),
)
"""The worked example that upstream's arithmetic environment puts before every question."""

_BELOW = 101
"""Operands are below it."""

_SUM = re.compile(r"What is (\d+) \+ (\d+)\?")


class ArithmeticOptions(Contract):
    """Which sums."""

    n_batches: int = Field(default=100, ge=1)
    """Batches of generated sums; upstream's sums for the same number of the batch."""
    held_out: int = Field(default=0, ge=0)
    """Held-out sums, when no held-out dataset is named; none of them is among those that are trained on."""
    fewshot: bool = True
    """Put a worked example before each question."""
    require_stop_sequence: bool = True
    """An answer that does not end at the renderer's stop sequence is not in the format."""


class Arithmetic(Environment):
    """Sums of two numbers below 101, rewarded when the last integer of the answer is right."""

    options_model = ArithmeticOptions

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """Training leaves as many sums as are to be held out.

        Raises:
            ConfigError: it does not.
        """
        experiment = plan.experiment
        if experiment.training and experiment.dataset is None and experiment.eval_dataset is None:
            self._unseen(self._generated(experiment.training.batch_size))
        return []

    def build(self, material: Material) -> Environments:
        """Sums of the datasets (questions ``What is x + y?``) that are named, generated ones otherwise.

        Raises:
            ConfigError: training does not leave as many sums as are to be held out.
        """
        if material.held_out is not None:
            pairs = _sums(material.held_out)
        elif material.rows is not None:
            pairs = self._unseen(_sums(material.rows))
        else:
            pairs = self._unseen(self._generated(material.groups_per_batch))
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

    def _generated(self, batch_size: int) -> Iterable[tuple[int, int]]:
        return (pair for batch in range(self.options.n_batches) for pair in operands(batch, batch_size))

    def _unseen(self, trained: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The first of all sums, in a fixed order, that are not trained on."""
        count, seen = self.options.held_out, set[tuple[int, int]]()
        for pair in trained if count else ():
            seen.add(pair)
            if len(seen) > _BELOW**2 - count:
                raise ConfigError(
                    what=f"training leaves fewer than {count} of the {_BELOW**2} sums to hold out",
                    where="held_out",
                    remedy="give fewer n_batches or held_out, or held_out=0",
                )
        order = generator(0, "arithmetic/held_out").permutation(_BELOW**2).tolist()
        return [pair for pair in (divmod(place, _BELOW) for place in order) if pair not in seen][:count]

    def _prefix(self) -> tuple[Message, ...]:
        return _EXAMPLE if self.options.fewshot else ()

    def _env(self, x: int, y: int, renderer: Renderer) -> ProblemEnv:
        return arithmetic_env(
            x, y, renderer, self._prefix(), require_stop_sequence=self.options.require_stop_sequence
        )


def _sums(snapshot: DatasetSnapshot) -> list[tuple[int, int]]:
    found = []
    for number, row in enumerate(snapshot.rows, start=1):
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
