"""``crucible conformance``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from crucible_ir import ConfigError, ExitCode
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption, Quiet
from crucible_kitchen.cli.output import print_json, print_line, print_table
from crucible_kitchen.operations.conformance_models import CheckOutcome, ConformanceReport

__all__ = ["conformance"]

_WORDS = {"passed": "ok", "failed": "FAILED", "not_run": "not run"}
_STYLES = {"passed": "green", "failed": "bold red", "not_run": "yellow"}
_WIDTH = 26


def conformance(
    target: Annotated[
        str | None, typer.Argument(help="Address of a server, or a profile or manifest file.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Base model; tiny is the bundled one.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A check or family; may be given several times.")
    ] = None,
    rank: Annotated[int, typer.Option("--rank", help="Rank of the adapters that are trained.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the adapters.")] = 7,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Nats; 0.05 or so for a backend that computes in bfloat16.")
    ] = 1e-3,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds that one check may take.")] = 120.0,
    api_key_env: Annotated[
        str, typer.Option("--api-key-env", help="Variable that holds the server's key.")
    ] = "TINKER_API_KEY",
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks and run none.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    home: HomeOption = None,
) -> int:
    """Hold a training backend or a Tinker-compatible server against numerical checks."""
    names = tuple(only or ())
    if list_checks:
        return _list(Crucible(home), names, as_json=as_json)
    if target is None:
        raise ConfigError(
            what="nothing is named to run the checks against",
            where="conformance",
            remedy="give the address of a server, or a manifest such as offline; --list shows the checks",
        )
    listeners = () if quiet or as_json else (_tell,)
    report = Crucible(home, listeners=listeners).conformance(
        target,
        model=model,
        only=names,
        rank=rank,
        seed=seed,
        tolerance=tolerance,
        timeout_s=timeout_s,
        api_key_env=api_key_env,
    )
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _summarise(report)
    return 0 if report.ok else int(ExitCode.FAILED)


def _list(crucible: Crucible, only: tuple[str, ...], *, as_json: bool) -> int:
    found = crucible.conformance_checks(only)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return 0
    rows = ((item.id, item.title, item.tolerance) for item in found.checks)
    print_table(("check", "what has to hold", "tolerance"), rows, empty="no checks")
    return 0


def _tell(what: str, data: Mapping[str, Any]) -> None:
    """One line for a check as it finishes, and more where it failed."""
    if what != "conformance.check":
        return
    outcome = CheckOutcome(**{name: value for name, value in data.items() if name != "of"})
    _say(_WORDS[outcome.status], _STYLES[outcome.status], f"{outcome.id:<{_WIDTH}} {outcome.title}")
    if outcome.status == "not_run":
        print_line(f"         {'':<{_WIDTH}} {outcome.reason}")
    if outcome.status == "failed":
        for label, text in (
            ("expected", outcome.expected),
            ("found", outcome.found),
            ("likely", outcome.diagnosis),
        ):
            print_line(f"           {label + ':':<10} {text}")


def _say(word: str, style: str, text: str) -> None:
    """A line that begins with a word in a colour, where colours show."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        print_line(f"{word:<8} {text}")
        return
    from rich.console import Console
    from rich.text import Text

    Console().print(Text.assemble((f"{word:<8}", style), f" {text}"), soft_wrap=True)


def _summarise(report: ConformanceReport) -> None:
    """The table of families and the verdict."""
    families = list(dict.fromkeys(check.family for check in report.checks))
    rows = []
    for family in families:
        mine = [check.status for check in report.checks if check.family == family]
        rows.append((family, *(mine.count(status) for status in ("passed", "failed", "not_run"))))
    print_line()
    print_table(("family", "passed", "failed", "not run"), rows, empty="no checks")
    print_line()
    said = f"{report.passed} passed, {report.failed} failed, {report.not_run} not run"
    print_line(f"{report.target} ({report.backend}, {report.model}): {said}")
