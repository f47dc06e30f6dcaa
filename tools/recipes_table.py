"""The table of docs/parity.md that shows upstream's recipes beside ours, from docs/evidence/recipes-*.json.

python tools/recipes_table.py write   put what the evidence says between the marks of the page
python tools/recipes_table.py check   fail where the page says something else
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path("docs") / "parity.md"
EVIDENCE = Path("docs") / "evidence"
PROOFS = ("recipes-supervised", "recipes-preference", "recipes-reinforcement", "recipes-distillation")
MARKS = ("<!-- recipes: begin -->", "<!-- recipes: end -->")
HEADS = (
    *(
        "upstream's recipe",
        "ours",
        "optimiser steps",
        "datums",
        "equal batches",
        "loss of the first and last step",
    ),
    *(
        "losses differ by",
        "gradients by",
        "inputs and log-probabilities by",
        "metrics compared",
        "they differ by",
    ),
    "last of a metric, theirs and ours",
)
TOLD = ("dpo_loss", "test/nll", "train_mean_nll", "test/env/all/reward/total", "teacher_kl", "train/loss:sum")
"""Metrics of which the table gives the last value: the first that a flow has."""


def flows(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and figures of every flow that the evidence has, in the order of the proofs."""
    for proof in PROOFS:
        path = root / EVIDENCE / f"{proof}.json"
        if path.exists():
            yield from json.loads(path.read_text(encoding="utf-8"))["figures"]["flows"].items()


def table(root: Path) -> str:
    """The whole block, marks left out."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    notes = []
    for name, figures in flows(root):
        lines.append(f"| {' | '.join(_cells(name, figures))} |")
        notes.append(_note(name, figures))
    return "\n".join([*lines, "", *notes])


def _cells(name: str, figures: dict[str, Any]) -> Iterator[str]:
    losses, apart = figures["losses"]["theirs"], dict(figures["apart"])
    yield name
    yield f"`{figures['ours'][0]}`"
    yield str(figures["optimiser_steps"])
    yield str(figures["datums"])
    yield f"{figures['equal_batches']} of {figures['optimiser_steps']}"
    yield f"{losses[0]:.6g} → {losses[-1]:.6g}"
    yield _size(apart.pop("loss"))
    yield _size(apart.pop("gradient"))
    yield _size(max(apart.values()))
    yield f"{len(figures['metrics']['names'])} ({figures['metrics']['values']} values)"
    yield _size(max(figures["metrics"]["apart"].values()))
    final = figures["metrics"]["final"]
    told = next(metric for metric in TOLD if metric in final)
    yield f"`{told}` {final[told][0]:.7g}, {final[told][1]:.7g}"


def _size(number: float) -> str:
    return "0" if number == 0 else f"{number:.0e}"


def _note(name: str, figures: dict[str, Any]) -> str:
    theirs = " ".join(figures["theirs"])
    ours = " ".join(figures["ours"])
    text = f"- **{name}**: `{theirs}` and `{ours}`."
    if figures["alike"]:
        text += f" Set alike: {figures['alike']}."
    for metric, why in figures["metrics"]["left_out"].items():
        text += f" `{metric}` is not compared: {why}."
    return text


def page(root: Path) -> tuple[str, str]:
    """The page as it stands, and as the evidence wants it."""
    text = (root / PAGE).read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return text, f"{before}{MARKS[0]}\n{table(root)}\n{MARKS[1]}{after}"


def main(arguments: list[str], root: Path = ROOT) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", choices=["write", "check"])
    options = parser.parse_args(arguments)
    now, wanted = page(root)
    if options.job == "write":
        (root / PAGE).write_text(wanted, encoding="utf-8")
        return 0
    if now != wanted:
        print(f"{PAGE} does not say what the evidence says; run: make parity-table", file=sys.stderr)
    return int(now != wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
