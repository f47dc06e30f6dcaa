"""How verbs show what is installed."""

from __future__ import annotations

from crucible_kitchen.cli.output import print_json, print_line, print_table
from crucible_kitchen.operations.catalog_models import Catalog

__all__ = ["print_catalog"]


def print_catalog(found: Catalog, *, name: str | None, as_json: bool) -> int:
    """A table of names, or the details of one."""
    if as_json:
        print_json(found.model_dump(mode="json"))
        return 0
    if name is None:
        rows = ((item.name, item.summary, f"{item.package} {item.version}") for item in found.items)
        print_table(("name", "summary", "package"), rows, empty=f"nothing installed adds to {found.group}")
        return 0
    for item in found.items:
        print_line(f"{item.name}: {item.summary} ({item.package} {item.version})")
        print_json(item.details or {})
    return 0
