"""``crucible resume``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption, LauncherOption, Quiet, RunId
from crucible_kitchen.cli.output import print_line
from crucible_kitchen.cli.progress import progress_for
from crucible_kitchen.cli.records import exit_code_of, print_outcome

__all__ = ["resume"]


def resume(
    run_id: RunId,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Go on from this one, such as step_000010.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Go on in the background.")] = False,
    nproc: Annotated[
        int | None,
        typer.Option("--nproc", min=1, help="Processes that train together; else as many as before."),
    ] = None,
    launcher: LauncherOption = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    home: HomeOption = None,
) -> int:
    """Go on with a run that was interrupted, failed, or waited and was answered."""
    how: dict[str, Any] = {"detached": detach, "processes": nproc, "launcher": launcher}
    progress = progress_for(quiet=quiet or as_json or detach)
    if progress is None:
        record = Crucible(home).resume(run_id, checkpoint, **how)
    else:
        with progress:
            record = Crucible(home, listeners=(progress,)).resume(run_id, checkpoint, **how)
    if detach and not as_json:
        print_line(f"{record.run_id} goes on in the background")
        print_line(f"next        crucible logs {record.run_id} -f")
        return 0
    print_outcome(record, Crucible(home), as_json=as_json)
    return 0 if detach else exit_code_of(record)
