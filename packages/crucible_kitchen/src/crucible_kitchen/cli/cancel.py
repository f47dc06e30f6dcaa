"""``crucible cancel``."""

from __future__ import annotations

from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption, RunId
from crucible_kitchen.cli.output import print_json, print_line

__all__ = ["cancel"]


def cancel(run_id: RunId, as_json: AsJson = False, home: HomeOption = None) -> int:
    """Stop a run, from whatever terminal."""
    record = Crucible(home).cancel(run_id)
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        print_line(f"{record.run_id}: asked to stop; it is {record.state}")
    return 0
