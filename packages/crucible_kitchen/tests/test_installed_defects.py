"""What is installed is used: stages by workflows, workflows by tests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from crucible_ir import ConfigError, Contract, PipelineNode
from crucible_kitchen.catalog import workflow
from crucible_kitchen.plugins.discovery import discover
from crucible_kitchen.plugins.groups import WORKFLOWS
from crucible_kitchen.plugins.stages import InstalledStages

Nodes = tuple[PipelineNode, ...]
OTHER: dict[type, Any] = {bool: True, float: 0.5, int: 2}
LEAST: dict[Any, Any] = {str: "x", int: 1}


def least_of(options: type[Contract]) -> dict[str, Any]:
    """A value for every setting that has no default."""
    kinds = {n: field.annotation for n, field in options.model_fields.items() if field.is_required()}
    return {
        name: least_of(kind) if isinstance(kind, type) and issubclass(kind, Contract) else LEAST[kind]
        for name, kind in kinds.items()
    }


def pipelines_of(name: str) -> Iterator[Nodes]:
    """The pipeline of a workflow with its defaults, and with every single switch or number set otherwise."""
    function = workflow(name)
    options = next(
        kind
        for kind in get_type_hints(function).values()
        if isinstance(kind, type) and issubclass(kind, Contract)
    )
    fields, needed = options.model_fields, least_of(options)
    yield function(options.parse(needed))
    for name, field in fields.items():
        for value in (OTHER.get(field.annotation), False) if field.annotation in OTHER else ():
            try:
                yield function(options.parse({**needed, name: value}))
            except ConfigError:
                continue  # not a value of this setting


def every_pipeline() -> str:
    """All pipelines of all installed workflows, as JSON."""
    return json.dumps(
        [
            node.model_dump(mode="json")
            for plugin in discover(WORKFLOWS)
            for nodes in pipelines_of(plugin.name)
            for node in nodes
        ]
    )


def test_every_installed_stage_is_in_a_workflow_and_reads_what_another_writes() -> None:
    stages, text = InstalledStages(), every_pipeline()
    used = set(re.findall(r'"kind": "stage", "name": "(\w+)"', text))
    assert len(used) > 20
    assert set(stages.names()) - used == set()
    loops = set(re.findall(r'"kind": "loop", "name": "(\w+)"', text))
    kinds = [stages.get(name) for name in stages.names()]
    written = {key.name for kind in kinds for key in kind.writes}
    written |= {f"{loop}_{what}" for loop in loops for what in ("index", "item")}
    unwritten = {
        f"{kind.name} reads {key.name}"
        for kind in kinds
        for key in (*kind.reads, *kind.optional_reads)
        if key.name not in written
    }
    assert unwritten == set()


def test_every_installed_workflow_is_run_by_a_test() -> None:
    tests = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    names = [plugin.name for plugin in discover(WORKFLOWS)]
    assert len(names) >= 3
    for name in names:
        imported = f"\nfrom crucible_kitchen.workflows.{name} import"
        assert any(imported in text and "crucible.run(" in text for text in tests), name
