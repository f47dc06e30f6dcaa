"""``crucible show``."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import typer

from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption, RunId
from crucible_kitchen.cli.output import print_json, print_line
from crucible_kitchen.cli.records import print_record

__all__ = ["show", "sparkline"]

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int = 60) -> str:
    """A line of block characters, lowest to highest; longer series are averaged into ``width`` cells."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite:
        return ""
    if len(finite) > width:
        edges = [round(i * len(finite) / width) for i in range(width + 1)]
        pieces = [finite[a:b] for a, b in pairwise(edges)]
        finite = [sum(piece) / len(piece) for piece in pieces]
    low, high = min(finite), max(finite)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in finite)


def show(
    run_id: RunId,
    metrics: Annotated[bool, typer.Option("--metrics", help="Print every row of metrics.")] = False,
    as_json: AsJson = False,
    home: HomeOption = None,
) -> int:
    """Show one run: state, figures, curve, what it wrote."""
    crucible = Crucible(home)
    record, table = crucible.status(run_id), crucible.metrics(run_id)
    artifacts = crucible.artifacts(run_id).artifacts
    if as_json:
        body = {
            "run": record.model_dump(mode="json"),
            "artifacts": [a.model_dump(mode="json") for a in artifacts],
        }
        if metrics:
            body["metrics"] = [row.model_dump(mode="json") for row in table.rows]
        print_json(body)
        return 0
    print_record(record)
    for name in ("train_mean_nll", "test/nll", "dpo_loss", "test/preference_accuracy"):
        values = [row.metrics[name] for row in table.rows if name in row.metrics]
        if values:
            print_line(f"{name:<16}{sparkline(values)}  {values[0]:.4g} → {values[-1]:.4g}")
    for artifact in artifacts:
        print_line(f"wrote       {artifact.id}")
    if metrics:
        for row in table.rows:
            facts = "  ".join(f"{name}={value:.6g}" for name, value in sorted(row.metrics.items()))
            print_line(f"step {row.step}: {facts}")
    return 0
