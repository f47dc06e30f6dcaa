"""``crucible doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from crucible_ir import ExitCode
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption
from crucible_kitchen.cli.output import print_json, print_line

__all__ = ["doctor"]


def doctor(
    manifest: Annotated[str, typer.Option("--manifest", "-m", help="Profile or manifest file.")] = "offline",
    as_json: AsJson = False,
    home: HomeOption = None,
) -> int:
    """Say what is in order on this machine and what is not."""
    report = Crucible(home).doctor(manifest)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        width = max((len(check.name) for check in report.checks), default=0)
        for check in report.checks:
            print_line(f"{'ok ' if check.ok else 'NOT'}  {check.name:<{width}}  {check.detail}")
            if not check.ok and check.remedy:
                print_line(f"     {'':<{width}}  → {check.remedy}")
    return 0 if report.ok else int(ExitCode.FAILED)
