"""``crucible logs``."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from crucible_ir import Event, RunState
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption, RunId
from crucible_kitchen.cli.output import print_line

__all__ = ["logs"]

_POLL_S = 0.5
_GOING_ON = (RunState.CREATED, RunState.RUNNING)


def logs(
    run_id: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    after: Annotated[int, typer.Option("--after", min=0, help="Only events after this number.")] = 0,
    as_json: AsJson = False,
    home: HomeOption = None,
) -> int:
    """Print the events of a run; with --json one JSON object a line."""
    crucible = Crucible(home)
    seen = after
    while True:
        going_on = follow and crucible.status(run_id).state in _GOING_ON
        page = crucible.events(run_id, after=seen)
        for event in page.events:
            print_line(
                json.dumps(event.model_dump(mode="json"), ensure_ascii=False) if as_json else line_of(event)
            )
        seen = page.last_seq
        if not going_on:
            return 0
        time.sleep(_POLL_S)


def line_of(event: Event) -> str:
    """Number, time, type and the small facts of an event."""
    facts = "  ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in event.data.items()
        if isinstance(value, str | int | float | bool) and str(value)
    )
    return f"{event.seq:>5}  {event.at:%H:%M:%S}  {event.type:<22}  {facts}".rstrip()
