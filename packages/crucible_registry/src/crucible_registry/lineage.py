"""Walks over the graph of what was made from what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter
from typing import TypeAlias

from crucible_ir.errors import IntegrityError

__all__ = ["Node", "reachable", "sorted_parents_first"]

Node: TypeAlias = "int | str"
"""Number of a kept ref, or the name of one that was never kept."""


def reachable(start: Iterable[Node], step: Callable[[Node], Iterable[Node]]) -> list[Node]:
    """Everything that ``step`` leads to from ``start``, which is included; nearest first, each once."""
    seen: dict[Node, None] = dict.fromkeys(start)
    level = list(seen)
    while level:
        found = [node for origin in level for node in step(origin)]
        level = [node for node in dict.fromkeys(found) if node not in seen]
        seen.update(dict.fromkeys(level))
    return list(seen)


def sorted_parents_first(nodes: Iterable[Node], parents: Callable[[Node], Iterable[Node]]) -> list[Node]:
    """``nodes``, each after all its parents among them.

    Raises:
        IntegrityError: they form a cycle; names it.
    """
    chosen = list(nodes)
    members = set(chosen)
    sorter: TopologicalSorter[Node] = TopologicalSorter()
    for node in chosen:
        sorter.add(node, *(parent for parent in parents(node) if parent in members))
    try:
        return list(sorter.static_order())
    except CycleError as error:
        raise IntegrityError(
            what=f"the graph holds a cycle: {' → '.join(str(node) for node in error.args[1])}",
            where="lineage",
            remedy="restore the registry's file from a copy",
        ) from error
