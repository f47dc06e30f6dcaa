"""``crucible runs``."""

from __future__ import annotations

from typing import Annotated

import typer

from crucible_ir import RunState
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption
from crucible_kitchen.cli.output import print_json, print_line, print_table

__all__ = ["runs"]


def runs(
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="How many at most.")] = None,
    state: Annotated[RunState | None, typer.Option("--state", help="Only runs in this state.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Only runs of this recipe.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only runs with this tag.")] = None,
    as_json: AsJson = False,
    home: HomeOption = None,
) -> int:
    """List runs, newest first."""
    found = Crucible(home).list(limit=limit, state=state, recipe=recipe, tag=tag)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return 0
    print_table(
        ("run", "state", "recipe", "step", "held-out", "created", "tags"),
        (
            (
                record.run_id,
                record.state,
                record.recipe or record.experiment_id,
                f"{record.step}" + (f"/{record.total_steps}" if record.total_steps is not None else ""),
                record.metrics.get("test/nll", record.metrics.get("test/preference_accuracy")),
                f"{record.created_at:%Y-%m-%d %H:%M}",
                ", ".join(record.tags),
            )
            for record in found.runs
        ),
        empty="no runs yet; crucible quickstart makes the first",
    )
    for unreadable in found.unreadable:
        print_line(f"{unreadable.run_id} cannot be read: {unreadable.problem}")
    return 0
