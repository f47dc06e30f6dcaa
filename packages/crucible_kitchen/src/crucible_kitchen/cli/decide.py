"""``crucible decide``."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from crucible_ir import ConfigError, ConflictError
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption, RunId
from crucible_kitchen.cli.output import print_json, print_line

__all__ = ["decide"]


def decide(
    run_id: RunId,
    yes: Annotated[bool, typer.Option("--yes", help="Approve what is asked.")] = False,
    no: Annotated[bool, typer.Option("--no", help="Refuse it.")] = False,
    digest: Annotated[
        str | None, typer.Option("--digest", help="Digest of what you read; else what is asked now.")
    ] = None,
    comment: Annotated[str, typer.Option("--comment", help="Why.")] = "",
    as_json: AsJson = False,
    home: HomeOption = None,
) -> int:
    """Answer what a run waits for."""
    if yes == no:
        raise ConfigError(what="neither or both of --yes and --no", where="decide", remedy="give one of them")
    crucible = Crucible(home)
    asked = crucible.status(run_id).waiting_for
    if asked is None:
        raise ConflictError(
            what=f"{run_id} waits for nothing", where="decide", remedy="crucible runs shows the states"
        )
    request = asked.get("request", asked)
    record = crucible.decide(
        run_id, digest or str(request["digest"]), approved=yes, actor=getpass.getuser(), comment=comment
    )
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        print_line(
            f"{record.run_id}: {'approved' if yes else 'refused'}; next: crucible resume {record.run_id}"
        )
    return 0
