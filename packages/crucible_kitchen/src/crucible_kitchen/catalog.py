"""Recipes, workflows and environments that installed packages registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crucible_ir import AdapterError, PipelineNode
from crucible_kitchen.environments.environment import Environment
from crucible_kitchen.plugins.discovery import find
from crucible_kitchen.plugins.groups import ENVIRONMENTS, RECIPES, WORKFLOWS
from crucible_kitchen.plugins.loading import load
from crucible_kitchen.recipes import Recipe

__all__ = ["environment", "recipe", "workflow"]


def workflow(name: str) -> Callable[..., tuple[PipelineNode, ...]]:
    """The registered workflow function of that name.

    Raises:
        AdapterError: unknown, owned twice, or not importable.
    """
    function: Callable[..., tuple[PipelineNode, ...]] = load(find(WORKFLOWS, name))
    return function


def recipe(name: str) -> Recipe[Any]:
    """The registered recipe of that name.

    Raises:
        AdapterError: unknown, owned twice, not importable, or not a recipe.
    """
    found: type[Recipe[Any]] = _subclass(RECIPES, name, Recipe)
    return found()


def environment(name: str) -> type[Environment]:
    """The registered environment class of that name.

    Raises:
        AdapterError: unknown, owned twice, not importable, or not an environment.
    """
    found: type[Environment] = _subclass(ENVIRONMENTS, name, Environment)
    return found


def _subclass(group: str, name: str, base: type) -> Any:
    plugin = find(group, name)
    found = load(plugin)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise AdapterError(
            what=f"{plugin.name!r} of {plugin.package} is no subclass of {base.__name__}",
            where=group,
            remedy=f"let the entry point name a subclass of {base.__name__}",
        )
    return found
