"""The seam between reinforcement learning and the problems it is done on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from crucible_ir import Contract, DatasetSnapshot, Problem
from crucible_kitchen.engine.context import PlanContext
from crucible_kitchen.engine.stage import NoOptions
from crucible_train.ports import PythonBridge
from crucible_train.renderers import Renderer
from crucible_train.rl import EnvGroupBuilder, RLDataset

__all__ = ["Environment", "Environments", "HeldOutProblem", "Material"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What environments are made of.

    ``bridge`` is there when the environment needs one and the manifest names it. A batch has
    ``groups_per_batch`` groups of ``group_size`` members.
    """

    renderer: Renderer
    groups_per_batch: int
    group_size: int
    seed: int
    rows: DatasetSnapshot | None = None
    held_out: DatasetSnapshot | None = None
    bridge: PythonBridge | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutProblem:
    """A group of one member that is only measured, with the identity of its problem."""

    example_id: str
    builder: EnvGroupBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class Environments:
    """Batches to train on, and problems to measure on."""

    train: RLDataset
    held_out: Sequence[HeldOutProblem] = ()


class Environment(ABC):
    """A kind of problem. Subclass it and register the class in ``crucible.environments``.

    The first line of the docstring is what lists show.
    """

    options_model: ClassVar[type[Contract]] = NoOptions
    needs_rows: ClassVar[bool] = False
    """Whether the experiment must name a dataset."""
    needs_bridge: ClassVar[bool] = False
    """Whether answers are judged behind the bridge; others get none, so that they run without its packages."""
    graded: ClassVar[bool] = True
    """Whether answers get a reward that says how good they are."""

    def __init__(self, options: Contract) -> None:
        self.options: Any = options

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """Problems that can be seen before anything heavy runs."""
        return ()

    @abstractmethod
    def build(self, material: Material) -> Environments:
        """The environments; the same for the same material.

        Raises:
            DataError: rows are missing or not of the expected form.
        """
