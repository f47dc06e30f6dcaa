"""Inputs and outputs of the operations on runs."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from crucible_ir import ArtifactRef, Contract, Event, Experiment, MetricRow, RunRecord, RunState

__all__ = [
    "ArtifactList",
    "CancelRun",
    "CreateRun",
    "DecideRun",
    "EventPage",
    "EventsAfter",
    "ExportWeights",
    "ExportedWeights",
    "FetchArtifact",
    "FetchedArtifact",
    "ListRuns",
    "MetricTable",
    "MetricsAfter",
    "OneRun",
    "PlanReport",
    "ResumeRun",
    "RunList",
    "RunSpec",
    "UnreadableRun",
]


class RunSpec(Contract):
    """What to run: a whole experiment, or a recipe with its settings."""

    experiment: Experiment | None = None
    recipe: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    """Settings of ``recipe``."""
    manifest: str | None = None
    """Manifest to use in place of the experiment's."""
    idempotency_key: str | None = Field(default=None, min_length=1)
    """Asking again with the same key gives the same run."""
    actor: str = Field(default="local", min_length=1)
    parent_run: str | None = None
    tags: tuple[str, ...] = ()
    processes: int = Field(default=1, ge=1)
    """Processes that train together (of each node, where the launcher has several)."""
    launcher: str | None = None
    """Launcher to start the run with, with the manifest's options for it; None takes the manifest's, if it has one."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.experiment is None) == (self.recipe is None):
            raise ValueError("give either 'experiment' or 'recipe'")
        if self.config and self.recipe is None:
            raise ValueError("'config' goes with 'recipe'")
        return self


class CreateRun(RunSpec):
    """A run to be written down and, unless ``start`` is false, executed by a process of its own."""

    start: bool = True


class OneRun(Contract):
    """Which run."""

    run_id: str = Field(min_length=1)
    """Its id, a beginning or end that fits no other, or ``last``."""


class ResumeRun(OneRun):
    """Which run goes on, and from where."""

    checkpoint: str | None = None
    """Name of a checkpoint (``step_000010``); None takes the newest."""
    detached: bool = False
    """Execute in a process of its own and return at once."""
    processes: int | None = Field(default=None, ge=1)
    """Processes that train together; None takes as many as before. Another number reads the same checkpoints."""
    launcher: str | None = None
    """Launcher to go on with; None takes the one from before."""


class CancelRun(OneRun):
    """Which run to stop."""

    actor: str = Field(default="local", min_length=1)


class DecideRun(OneRun):
    """The answer to what a run waits for."""

    request_digest: str
    """``digest`` of what was asked; an answer to anything else is refused."""
    approved: bool
    actor: str = Field(default="local", min_length=1)
    comment: str = ""
    resume: bool = False
    """Let the run go on at once, in a process of its own."""


class ListRuns(Contract):
    """Which runs to list."""

    limit: int | None = Field(default=None, ge=1)
    state: RunState | None = None
    recipe: str | None = None
    tag: str | None = None


class UnreadableRun(Contract):
    """A run whose log cannot be read, and why."""

    run_id: str
    problem: str


class RunList(Contract):
    """Runs, newest first."""

    runs: tuple[RunRecord, ...]
    unreadable: tuple[UnreadableRun, ...] = ()


class EventsAfter(OneRun):
    """Which events."""

    after: int = Field(default=0, ge=0)
    """Those with a greater ``seq``."""
    limit: int | None = Field(default=None, ge=1)


class EventPage(Contract):
    """Events in order; ``last_seq`` is what to ask for next."""

    events: tuple[Event, ...]
    last_seq: int


class ArtifactList(Contract):
    """What a run has written; ``id`` is the path within the run's folder, which ``fetch`` takes."""

    run_id: str
    artifacts: tuple[ArtifactRef, ...]


class FetchArtifact(OneRun):
    """Which artifact, and where to put a copy."""

    artifact: str = Field(min_length=1)
    destination: str = Field(min_length=1)
    """A file that does not exist yet, or a folder."""


class FetchedArtifact(Contract):
    """Where the copy is."""

    path: str
    size_bytes: int


class ExportWeights(OneRun):
    """Which weights to write where, for programs other than ours."""

    destination: str = Field(min_length=1)
    """A folder that does not exist yet, or is empty."""
    weights: str = "final"
    """Name of the weights, or of a checkpoint (``step_000010``)."""
    merge: bool = True
    """A whole model that ``transformers`` loads; else an adapter that ``peft`` loads."""


class ExportedWeights(Contract):
    """Where the weights are."""

    path: str
    merged: bool


class MetricsAfter(OneRun):
    """Which rows of metrics."""

    after_step: int | None = None


class MetricTable(Contract):
    """Rows in the order of their steps."""

    run_id: str
    rows: tuple[MetricRow, ...]


class PlanReport(Contract):
    """A plan that holds together."""

    experiment_id: str
    config_digest: str
    recipe: str | None
    workflow: str | None
    manifest: str
    adapters: dict[str, str]
    stages: tuple[str, ...]
    """Labels in order; stages inside loops once."""
