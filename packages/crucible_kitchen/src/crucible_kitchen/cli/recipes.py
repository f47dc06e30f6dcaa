"""``crucible recipes``."""

from __future__ import annotations

from typing import Annotated

import typer

from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.catalogs import print_catalog
from crucible_kitchen.cli.options import AsJson

__all__ = ["recipes"]


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.")] = None, as_json: AsJson = False
) -> int:
    """List the recipes; with a name, its settings."""
    return print_catalog(Crucible().recipes(name), name=name, as_json=as_json)
