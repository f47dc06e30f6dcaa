"""The pipeline: stages, loops, choices and branches as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from crucible_ir.contract import Contract
from crucible_ir.errors import Problem
from crucible_ir.json_values import JsonObject

__all__ = [
    "IfDef",
    "LoopDef",
    "ParallelDef",
    "PipelineNode",
    "RegisteredName",
    "RetryPolicy",
    "StageDef",
    "nodes_of",
    "pipeline_problems",
]

RegisteredName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$")]
"""Name under which something is registered: letters, digits, ``_``, ``-`` and single dots; never ``module:object``."""


class RetryPolicy(Contract):
    """How often a stage is tried again after a retryable error, and how long to wait between tries."""

    attempts: int = Field(default=1, ge=1)
    """Tries in all; 1 is no retry."""
    wait_s: float = Field(default=0.5, ge=0)
    """Wait before the second try."""
    factor: float = Field(default=2.0, ge=1)
    """Each further wait is this much longer."""


class StageDef(Contract):
    """One registered stage with its options."""

    kind: Literal["stage"] = "stage"
    name: RegisteredName
    """Registered name of the stage (entry-point group ``crucible.stages``); never an import path."""
    label: str | None = Field(default=None, min_length=1)
    """Name of this place in the pipeline, when a stage stands in it twice; no other stage may go by it."""
    options: JsonObject = Field(default_factory=dict)
    enabled: bool = True
    retry: RetryPolicy = RetryPolicy()
    timeout_s: float | None = Field(default=None, gt=0)

    @property
    def place(self) -> str:
        """What this place goes by: the label, or the stage's name where there is none."""
        return self.label or self.name


class LoopDef(Contract):
    """Run ``body`` once per item of the state key ``over``: a count, a sequence, or any iterable, read lazily.

    Each turn writes ``<name>_index`` and ``<name>_item`` to the state.
    """

    kind: Literal["loop"] = "loop"
    name: str = Field(min_length=1)
    over: str = Field(min_length=1)
    until: str | None = None
    """State key that ends the loop once it is true after a turn; how a loop over an endless iterable ends."""
    prefetch: int | None = Field(default=None, ge=0)
    """Items of an iterable that may wait, pulled while a turn runs; None pulls each when its turn comes."""
    body: tuple[PipelineNode, ...] = Field(min_length=1)


class IfDef(Contract):
    """Run ``body`` when the state key ``when`` is true, else ``otherwise``."""

    kind: Literal["if"] = "if"
    when: str = Field(min_length=1)
    body: tuple[PipelineNode, ...] = Field(min_length=1)
    otherwise: tuple[PipelineNode, ...] = ()


class ParallelDef(Contract):
    """Run the branches at the same time; none may write a key that another reads or writes."""

    kind: Literal["parallel"] = "parallel"
    name: str = Field(min_length=1)
    max_concurrency: int = Field(default=4, ge=1)
    branches: tuple[tuple[PipelineNode, ...], ...] = Field(min_length=1)


def _stage_by_default(value: Any) -> Any:
    """A node without ``kind`` that holds no others is a stage."""
    if isinstance(value, Mapping) and not {"kind", "body", "branches"} & value.keys():
        return {"kind": "stage", **value}
    return value


PipelineNode = Annotated[
    StageDef | LoopDef | IfDef | ParallelDef,
    Field(discriminator="kind"),
    BeforeValidator(_stage_by_default),
]
"""One node, told apart by ``kind``; a node without ``kind`` and without nodes of its own is a stage."""

for _model in (LoopDef, IfDef, ParallelDef):
    _model.model_rebuild()


def nodes_of(nodes: Sequence[PipelineNode], path: str = "") -> Iterator[tuple[str, PipelineNode]]:
    """Every node with its path (``[1].body[0]``), in the order in which it stands."""
    for number, node in enumerate(nodes):
        here = f"{path}[{number}]"
        yield here, node
        match node:
            case LoopDef():
                yield from nodes_of(node.body, f"{here}.body")
            case IfDef():
                yield from nodes_of(node.body, f"{here}.body")
                yield from nodes_of(node.otherwise, f"{here}.otherwise")
            case ParallelDef():
                for branch, body in enumerate(node.branches):
                    yield from nodes_of(body, f"{here}.branches[{branch}]")


def _label_problems(nodes: Sequence[tuple[str, PipelineNode]]) -> list[Problem]:
    stages = [(path, node) for path, node in nodes if isinstance(node, StageDef)]
    problems: list[Problem] = []
    for number, (path, node) in enumerate(stages):
        if node.label is None:
            continue
        others = [*stages[:number], *((p, other) for p, other in stages[number:] if other.label is None)]
        taken = next((p for p, other in others if other.place == node.label), None)
        if taken is not None:
            problems.append(
                Problem(
                    path=f"{path}.label",
                    message=f"the stage at {taken} goes by {node.label!r} already",
                    remedy="give each place a label of its own",
                )
            )
    return problems


def _loop_problems(nodes: Sequence[tuple[str, PipelineNode]]) -> list[Problem]:
    problems: list[Problem] = []
    loops: list[tuple[str, str]] = []
    for path, node in nodes:
        if not isinstance(node, LoopDef):
            continue
        outer = next((p for p, name in loops if name == node.name and path.startswith(f"{p}.")), None)
        loops.append((path, node.name))
        if outer is not None:
            problems.append(
                Problem(
                    path=f"{path}.name",
                    message=f"the loop {node.name!r} stands inside a loop of the same name at {outer}",
                    remedy="rename one: each writes <name>_index and <name>_item",
                )
            )
    return problems


def pipeline_problems(nodes: Sequence[PipelineNode]) -> list[Problem]:
    """Labels that another stage goes by, and loops inside a loop of the same name."""
    placed = list(nodes_of(nodes))
    return [*_label_problems(placed), *_loop_problems(placed)]
