"""``crucible workflows``."""

from __future__ import annotations

from typing import Annotated

import typer

from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.catalogs import print_catalog
from crucible_kitchen.cli.options import AsJson

__all__ = ["workflows"]


def workflows(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.")] = None, as_json: AsJson = False
) -> int:
    """List the workflows."""
    return print_catalog(Crucible().workflows(name), name=name, as_json=as_json)
