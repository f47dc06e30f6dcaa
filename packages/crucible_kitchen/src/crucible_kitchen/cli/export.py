"""``crucible export``."""

from __future__ import annotations

from typing import Annotated

import typer

from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption, RunId
from crucible_kitchen.cli.output import print_json, print_line

__all__ = ["export"]


def export(
    run_id: RunId,
    destination: Annotated[str, typer.Argument(help="A folder that does not exist yet, or is empty.")],
    weights: Annotated[str, typer.Option("--weights", help="Weights or checkpoint to take.")] = "final",
    adapter: Annotated[
        bool, typer.Option("--adapter", help="An adapter for peft instead of a whole model for transformers.")
    ] = False,
    as_json: AsJson = False,
    home: HomeOption = None,
) -> int:
    """Write a run's weights where plain transformers or peft can load them."""
    made = Crucible(home).export(run_id, destination, weights=weights, merge=not adapter)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return 0
    print_line(f"wrote {made.path}")
    loader = "AutoModelForCausalLM.from_pretrained" if made.merged else "PeftModel.from_pretrained(base, …)"
    print_line(f"load it with {loader}")
    return 0
