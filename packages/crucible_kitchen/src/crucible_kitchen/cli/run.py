"""``crucible run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crucible_ir import ConfigError, Experiment, NotFoundError, RunRecord
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption, LauncherOption, Quiet
from crucible_kitchen.cli.output import print_json, print_line
from crucible_kitchen.cli.progress import progress_for
from crucible_kitchen.cli.records import exit_code_of, print_outcome
from crucible_kitchen.overrides import parse_overrides

__all__ = ["run"]


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe, or the path of an experiment's JSON file.")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value …, such as data.limit=500")] = None,
    manifest: Annotated[
        str | None, typer.Option("--manifest", "-m", help="Profile or manifest file.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, run nothing.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Tag of the run; may be repeated.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="The same key gives the same run.")] = None,
    parent: Annotated[str | None, typer.Option("--parent", help="Run that this one follows from.")] = None,
    nproc: Annotated[int, typer.Option("--nproc", min=1, help="Processes that train together.")] = 1,
    launcher: LauncherOption = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    home: HomeOption = None,
) -> int:
    """Run a recipe with settings, and watch it."""
    what: dict[str, Any] = _what(recipe, settings or [])
    what |= {"manifest": manifest, "tags": tuple(tag or ()), "idempotency_key": key, "parent_run": parent}
    what |= {"processes": nproc, "launcher": launcher}
    if dry_run:
        return _plan(Crucible(home), what, as_json=as_json)
    if detach:
        record: RunRecord = Crucible(home).call("create", what)  # type: ignore[assignment]
    else:
        progress = progress_for(quiet=quiet or as_json)
        if progress is None:
            record = Crucible(home).call("run", what)  # type: ignore[assignment]
        else:
            with progress:
                record = Crucible(home, listeners=(progress,)).call("run", what)  # type: ignore[assignment]
    print_outcome(record, Crucible(home), as_json=as_json)
    return exit_code_of(record)


def _what(recipe: str, words: list[str]) -> dict[str, Any]:
    """Input of the operation: an experiment file, or a recipe with its settings."""
    if not recipe.endswith(".json"):
        return {"recipe": recipe, "config": parse_overrides(words)}
    path = Path(recipe)
    if not path.is_file():
        raise NotFoundError(
            what=f"no file {recipe!r}", where="run", remedy="check the path, or name a recipe"
        )
    if words:
        raise ConfigError(
            what="an experiment file takes no settings",
            where="run",
            remedy="edit the file, or run its recipe",
        )
    return {"experiment": Experiment.parse(path.read_bytes(), where=path.name)}


def _plan(crucible: Crucible, what: dict[str, Any], *, as_json: bool) -> int:
    plan: Any = crucible.call("plan", what)
    if as_json:
        print_json(plan.model_dump(mode="json"))
        return 0
    print_line(f"{plan.experiment_id}: the plan holds together; nothing was run")
    print_line(
        f"manifest  {plan.manifest}: " + ", ".join(f"{port}={name}" for port, name in plan.adapters.items())
    )
    print_line("stages    " + " → ".join(plan.stages))
    print_line(f"config    {plan.config_digest}")
    return 0
