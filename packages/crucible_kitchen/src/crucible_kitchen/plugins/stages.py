"""The stages that installed packages add, loaded when a plan names them."""

from __future__ import annotations

from collections.abc import Iterable

from crucible_ir.errors import AdapterError
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.plugins.discovery import find, names
from crucible_kitchen.plugins.groups import STAGES
from crucible_kitchen.plugins.loading import load

__all__ = ["InstalledStages"]


class InstalledStages:
    """Stage classes by entry-point name; fits ``crucible_kitchen.engine.plan.StageCatalog``."""

    def __init__(self) -> None:
        self._loaded: dict[str, type[Stage]] = {}

    def names(self) -> Iterable[str]:
        """Every installed name."""
        return names(STAGES)

    def get(self, name: str) -> type[Stage]:
        """The stage class called ``name``.

        Raises:
            AdapterError: unknown, owned twice, not importable, or not a stage.
        """
        if name not in self._loaded:
            plugin = find(STAGES, name)
            stage = load(plugin)
            if not (isinstance(stage, type) and issubclass(stage, Stage)):
                raise AdapterError(
                    what=f"{plugin.name!r} of {plugin.package} is not a subclass of Stage",
                    where=STAGES,
                    remedy="subclass crucible_kitchen.engine.stage.Stage",
                )
            self._loaded[name] = stage
        return self._loaded[name]
