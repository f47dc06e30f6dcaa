"""``crucible adapters``."""

from __future__ import annotations

from typing import Annotated

import typer

from crucible_ir import ExitCode
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson
from crucible_kitchen.cli.output import print_json, print_table

__all__ = ["adapters"]


def adapters(
    port: Annotated[str | None, typer.Argument(help="Only adapters of this port.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Import each and look whether it fits.")] = False,
    as_json: AsJson = False,
) -> int:
    """List the adapters of each port."""
    found = Crucible().adapters(port, check=check)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_table(
            ("port", "adapter", "summary", "package", *(("problem",) if check else ())),
            (
                (
                    a.port,
                    a.name,
                    a.summary,
                    f"{a.package} {a.version}",
                    *((a.problem or "fits",) if check else ()),
                )
                for a in found.adapters
            ),
            empty="no adapter is installed",
        )
    return int(ExitCode.ADAPTER) if any(a.problem for a in found.adapters) else 0
