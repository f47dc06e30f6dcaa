"""Stages and workflows that installed packages registered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from crucible_ir import PipelineNode
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.plugins.discovery import find, names
from crucible_kitchen.plugins.groups import RECIPES, STAGES, WORKFLOWS
from crucible_kitchen.plugins.loading import load
from crucible_kitchen.recipes import Recipe

__all__ = ["InstalledStages", "recipe", "workflow"]


class InstalledStages:
    """The stage catalogue that entry points make; fits ``engine.plan.StageCatalog``."""

    def __init__(self) -> None:
        self._loaded: dict[str, type[Stage]] = {}

    def names(self) -> Iterable[str]:
        """Every registered name."""
        return names(STAGES)

    def get(self, name: str) -> type[Stage]:
        """The stage of that name.

        Raises:
            AdapterError: unknown, owned twice, not importable, or not a stage.
        """
        if name not in self._loaded:
            self._loaded[name] = _of_kind(STAGES, name, Stage)
        return self._loaded[name]


def workflow(name: str) -> Callable[..., tuple[PipelineNode, ...]]:
    """The registered workflow function of that name."""
    function: Callable[..., tuple[PipelineNode, ...]] = load(find(WORKFLOWS, name))
    return function


def recipe(name: str) -> Recipe[Any]:
    """The registered recipe of that name."""
    made: Recipe[Any] = _of_kind(RECIPES, name, Recipe)()
    return made


def _of_kind(group: str, name: str, kind: type) -> Any:
    from crucible_ir import AdapterError

    plugin = find(group, name)
    found = load(plugin)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise AdapterError(
            what=f"{plugin.name!r} of {plugin.package} is no subclass of {kind.__name__}",
            where=group,
            remedy=f"let the entry point name a {kind.__name__} class",
        )
    return found
