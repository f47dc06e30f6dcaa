"""What verbs print: JSON for scripts, tables and colours for a terminal, plain lines for a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from crucible_ir import ConfigError, CrucibleError
from crucible_kitchen.manifests.credentials import redactor_for

__all__ = ["print_json", "print_line", "print_table", "report_bug", "report_error"]


def print_json(value: Any) -> None:
    """One JSON document on standard output; NaN and infinities are words, as in the files of a run."""
    from crucible_telemetry.plain_json import plain_json

    sys.stdout.write(json.dumps(plain_json(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_line(text: str = "") -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table for a terminal; aligned columns without frames otherwise."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        print_line(empty)
        return
    if not sys.stdout.isatty():
        widths = [max(len(r[i]) for r in [list(columns), *cells]) for i in range(len(columns))]
        for row in [list(columns), *cells]:
            print_line(
                "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
            )
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*(Text(text) for text in row))
    Console().print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def report_error(error: CrucibleError, *, as_json: bool) -> None:
    """The error on standard error, secrets taken out: a sentence, or one JSON document."""
    import os

    redactor = redactor_for(os.environ, None)
    if as_json:
        body: Mapping[str, Any] = {
            "error": {
                "kind": type(error).__name__,
                "what": error.what,
                "where": error.where,
                "remedy": error.remedy,
                "exit_code": int(error.exit_code),
                "problems": [
                    {"path": p.path, "message": p.message, "remedy": p.remedy}
                    for p in (error.problems if isinstance(error, ConfigError) else ())
                ],
            }
        }
        sys.stderr.write(redactor.text(json.dumps(body, ensure_ascii=False, indent=2)) + "\n")
        return
    lines = [str(error), *getattr(error, "__notes__", ())]
    sys.stderr.write(redactor.text("error: " + "\n".join(lines)) + "\n")


def report_bug(error: Exception, *, as_json: bool) -> None:
    """An error that nobody foresaw, as ``report_error`` does, after its trace where a person reads it."""
    import os
    import traceback

    if not as_json:
        trace = "".join(traceback.format_exception(error))
        sys.stderr.write(redactor_for(os.environ, None).text(trace))
    told = CrucibleError(
        what=f"{type(error).__name__}: {error}",
        where="crucible",
        remedy="nobody foresaw this; please report it to the makers of what the trace names last",
    )
    report_error(told, as_json=as_json)
