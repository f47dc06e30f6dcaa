"""Declared metrics: what each name means, in which unit, and which direction is better."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from crucible_ir.errors import ConfigError, Problem, nearest

__all__ = ["Direction", "MetricDeclaration", "MetricSchema", "MetricSpec"]

Direction = Literal["lower", "higher", "none"]
"""Which way is better; ``none`` for what is neither (learning rate, number of tokens)."""


class MetricDeclaration(Protocol):
    """Anything that declares a metric; other packages bring their own."""

    @property
    def name(self) -> str:
        """Name, or a pattern in which ``*`` stands for any text."""
        ...

    @property
    def unit(self) -> str:
        """Unit (``nats/token``, ``s``, ``1``)."""
        ...

    @property
    def direction(self) -> Direction:
        """Which way is better."""
        ...

    @property
    def description(self) -> str:
        """What it measures."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One declared metric. ``name`` may hold ``*`` for families (``env/*/reward``)."""

    name: str
    unit: str
    direction: Direction
    description: str


class MetricSchema:
    """A set of declarations: which metric names may be logged.

    Raises:
        ConfigError: two declarations of one name that differ, naming it.
    """

    def __init__(self, declarations: Iterable[MetricDeclaration] = ()) -> None:
        self._specs: dict[str, MetricSpec] = {}
        for item in declarations:
            spec = MetricSpec(
                name=item.name, unit=item.unit, direction=item.direction, description=item.description
            )
            known = self._specs.setdefault(spec.name, spec)
            if (known.unit, known.direction) != (spec.unit, spec.direction):
                raise ConfigError(
                    what=f"declared twice: {known.unit!r}, {known.direction} and {spec.unit!r}, {spec.direction}",
                    where=spec.name,
                    remedy="give one of the two another name",
                )

    def __iter__(self) -> Iterator[MetricSpec]:
        """Declarations in the order given."""
        return iter(self._specs.values())

    def __len__(self) -> int:
        """Number of declarations."""
        return len(self._specs)

    def __or__(self, other: MetricSchema) -> MetricSchema:
        """Both sets together."""
        return MetricSchema([*self, *other])

    def spec(self, name: str) -> MetricSpec | None:
        """The declaration of ``name``: an exact one before a pattern; None if it is not declared."""
        exact = self._specs.get(name)
        if exact is not None:
            return exact
        patterns = (spec for spec in self if "*" in spec.name and fnmatch.fnmatchcase(name, spec.name))
        return next(patterns, None)

    def undeclared(self, names: Iterable[str]) -> list[str]:
        """The names nobody declared, in the order given."""
        return [name for name in names if self.spec(name) is None]

    def check(self, names: Iterable[str]) -> None:
        """Return if all names are declared.

        Raises:
            ConfigError: naming every undeclared one, with the nearest declared name.
        """
        problems = []
        for name in self.undeclared(names):
            near = nearest(name, self._specs)
            remedy = f"did you mean {near!r}?" if near else "declare its unit, direction and meaning"
            problems.append(Problem(path=name, message="is not a declared metric", remedy=remedy))
        if problems:
            raise ConfigError(problems=problems)
