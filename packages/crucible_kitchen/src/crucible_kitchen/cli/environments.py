"""``crucible environments``."""

from __future__ import annotations

from typing import Annotated

import typer

from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.catalogs import print_catalog
from crucible_kitchen.cli.options import AsJson

__all__ = ["environments"]


def environments(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.")] = None, as_json: AsJson = False
) -> int:
    """List the environments that a policy can be trained in."""
    return print_catalog(Crucible().environments(name), name=name, as_json=as_json)
