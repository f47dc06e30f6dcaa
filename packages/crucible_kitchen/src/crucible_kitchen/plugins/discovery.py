"""What the installed packages offer: names and help lines, without importing any of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from crucible_kitchen.plugins.summaries import summary_of

__all__ = ["Plugin", "discover", "find", "names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """One entry point of a group."""

    group: str
    name: str
    target: str
    """``module:attribute``."""
    package: str
    version: str

    def summary(self) -> str:
        """First docstring line of what the entry point names, read without importing it."""
        return summary_of(self.target)


def _plugin(entry: EntryPoint) -> Plugin:
    owner = entry.dist
    return Plugin(
        group=entry.group,
        name=entry.name,
        target=entry.value.partition("[")[0].strip(),
        package=owner.name if owner is not None else "(no package)",
        version=owner.version if owner is not None else "",
    )


def discover(group: str) -> tuple[Plugin, ...]:
    """Everything installed that adds to ``group``, sorted by name, then package.

    A name that two packages own appears twice; ``find`` refuses it.
    """
    return _scanned(group, tuple((place, _changed(place)) for place in sys.path))


@lru_cache(maxsize=64)
def _scanned(group: str, places: tuple[tuple[str, int | None], ...]) -> tuple[Plugin, ...]:
    """Reading the metadata of everything installed takes long; ``places`` says when it must be read again."""
    found = {_plugin(entry) for entry in entry_points(group=group)}
    return tuple(sorted(found, key=lambda item: (item.name, item.package, item.target)))


def _changed(place: str) -> int | None:
    """When something was added to a folder of the module path, or taken out of it."""
    try:
        return Path(place or ".").stat().st_mtime_ns
    except OSError:
        return None


def names(group: str) -> tuple[str, ...]:
    """Names in ``group``, sorted, each once."""
    return tuple(sorted({plugin.name for plugin in discover(group)}))


def _owners(plugins: Iterable[Plugin]) -> str:
    return " and ".join(f"{item.package} ({item.target})" for item in plugins)


def find(group: str, name: str) -> Plugin:
    """The one plugin called ``name`` in ``group``.

    Raises:
        AdapterError: nothing has that name (names the nearest), or two packages own it.
    """
    plugins = discover(group)
    found = [plugin for plugin in plugins if plugin.name == name]
    if len(found) == 1:
        return found[0]
    from crucible_ir.errors import AdapterError, nearest

    if found:
        raise AdapterError(
            what=f"{name!r} is owned by {_owners(found)}",
            where=group,
            remedy="uninstall one of the packages",
        )
    known = sorted({plugin.name for plugin in plugins})
    near = nearest(name, known)
    if near:
        remedy = f"did you mean {near!r} of {next(p.package for p in plugins if p.name == near)}?"
    else:
        remedy = f"installed: {', '.join(known)}" if known else "install a package that adds it"
    raise AdapterError(what=f"no installed package adds {name!r}", where=group, remedy=remedy)
