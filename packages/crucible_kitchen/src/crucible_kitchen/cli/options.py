"""Options and arguments that several verbs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "HomeOption", "LauncherOption", "Quiet", "RunId"]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Folder of runs; else $CRUCIBLE_HOME, else ~/.crucible.")
]
LauncherOption = Annotated[
    str | None, typer.Option("--launcher", help="What starts the run: local, slurm, ray …")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
RunId = Annotated[str, typer.Argument(help="Run id, a part of it that fits no other, or 'last'.")]
