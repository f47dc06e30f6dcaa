"""A stage: one small step of a workflow that declares what it reads, writes and needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from crucible_ir import Contract, Problem

if TYPE_CHECKING:
    from crucible_kitchen.engine.context import PlanContext, StageContext

__all__ = ["Key", "NoOptions", "Stage"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Key(Generic[T]):
    """A named, typed place in a run's state.

    A durable key holds a JSON value; it is saved with every checkpoint and restored on resume.
    """

    name: str
    description: str = ""
    durable: bool = False


class NoOptions(Contract):
    """A stage that has nothing to set."""


class Stage(ABC):
    """One step. Subclass it, declare the class variables, write ``run``; register it by entry point.

    ``setup`` stages build what the rest needs in memory and run again when a run is resumed; the others
    are not repeated once a checkpoint lies behind them. A stage may touch only the keys and ports it
    declares: the plan is checked against them before anything runs, and the context refuses others.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[Key[Any], ...]] = ()
    optional_reads: ClassVar[tuple[Key[Any], ...]] = ()
    writes: ClassVar[tuple[Key[Any], ...]] = ()
    ports: ClassVar[tuple[str, ...]] = ()
    optional_ports: ClassVar[tuple[str, ...]] = ()
    options_model: ClassVar[type[Contract]] = NoOptions
    setup: ClassVar[bool] = False
    commits: ClassVar[bool] = False
    """Whether the stage saves checkpoints; such a stage cannot stand inside a parallel node."""

    def __init__(self, options: Contract) -> None:
        self.options: Any = options

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """Problems that can be seen before anything heavy runs; may also raise a CrucibleError."""
        return ()

    @abstractmethod
    async def run(self, ctx: StageContext) -> None:
        """Do the work."""

    async def rollback(self, ctx: StageContext, error: BaseException) -> None:
        """Take back what ``run`` did to the outside, after a later stage (or this one) failed."""
        return

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Name, first line of the docstring, keys, ports and the JSON Schema of the options."""
        return {
            "name": cls.name,
            "summary": (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else "",
            "reads": [key.name for key in cls.reads],
            "optional_reads": [key.name for key in cls.optional_reads],
            "writes": [key.name for key in cls.writes],
            "ports": list(cls.ports),
            "optional_ports": list(cls.optional_ports),
            "setup": cls.setup,
            "options": cls.options_model.model_json_schema(),
        }
