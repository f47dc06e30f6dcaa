"""Recipes: a small frozen config that becomes an experiment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from crucible_ir import Contract, Experiment

__all__ = ["Recipe"]

C = TypeVar("C", bound=Contract)


class Recipe(ABC, Generic[C]):
    """Subclass it, name a config model, write ``experiment``; register the class in ``crucible.recipes``.

    The first line of the docstring is what ``crucible recipes`` shows.
    """

    name: ClassVar[str]
    config_model: ClassVar[type[Contract]]

    @abstractmethod
    def experiment(self, config: C) -> Experiment:
        """The experiment that ``config`` asks for; pure, but for looking up bundled files and paths."""

    def parse(self, overrides: dict[str, Any]) -> Experiment:
        """The experiment of a nested dict of settings.

        Raises:
            ConfigError: every unknown key, wrong type and value out of range, at once.
        """
        config: Any = self.config_model.parse(overrides)
        return self.experiment(config)
