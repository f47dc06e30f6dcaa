"""The experiment: the one value that is hashed, stored, diffed, sent and replayed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from crucible_ir.contract import Contract
from crucible_ir.refs import DatasetRef, ModelRef
from crucible_ir.training import TrainingConfig

__all__ = [
    "BackendRef",
    "Experiment",
    "IfDef",
    "LoopDef",
    "OutputSpec",
    "ParallelDef",
    "PipelineNode",
    "RetryPolicy",
    "StageDef",
]

SCHEMA_VERSION = 1


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
    name: str
    """Registered name of the stage (entry-point group ``crucible.stages``); never an import path."""
    label: str | None = None
    """Name of this place in the pipeline, when a stage stands in it twice."""
    options: dict[str, Any] = Field(default_factory=dict)
    enabled: bool = True
    retry: RetryPolicy = RetryPolicy()
    timeout_s: float | None = Field(default=None, gt=0)


class LoopDef(Contract):
    """Run ``body`` once per item of the state key ``over`` (a count or a sequence).

    Each turn writes ``<name>_index`` and ``<name>_item`` to the state.
    """

    kind: Literal["loop"] = "loop"
    name: str
    over: str
    body: tuple[PipelineNode, ...] = Field(min_length=1)


class IfDef(Contract):
    """Run ``body`` when the state key ``when`` is true, else ``otherwise``."""

    kind: Literal["if"] = "if"
    when: str
    body: tuple[PipelineNode, ...] = Field(min_length=1)
    otherwise: tuple[PipelineNode, ...] = ()


class ParallelDef(Contract):
    """Run the branches at the same time; none may write a key that another reads or writes."""

    kind: Literal["parallel"] = "parallel"
    name: str
    max_concurrency: int = Field(default=4, ge=1)
    branches: tuple[tuple[PipelineNode, ...], ...] = Field(min_length=1)


PipelineNode = Annotated[StageDef | LoopDef | IfDef | ParallelDef, Field(discriminator="kind")]

for _model in (LoopDef, IfDef, ParallelDef):
    _model.model_rebuild()


class BackendRef(Contract):
    """Which manifest profile serves the ports, and per-port adapter choices on top of it."""

    manifest: str = "offline"
    """Name of a built-in profile, or path of a manifest file."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """Port name → adapter name, over the manifest's choice."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Port name → adapter options, over the manifest's."""


class OutputSpec(Contract):
    """A report to write at the end."""

    name: str
    formats: tuple[Literal["markdown", "json", "html"], ...] = ("markdown",)
    sink: Literal["file", "stdout"] = "file"


class Experiment(Contract):
    """What is to be done, whole: workflow, data, model, training settings, seed."""

    schema_version: int = SCHEMA_VERSION
    id: str = Field(min_length=1)
    description: str = ""
    experiment_type: Literal["training", "evaluation", "comparison", "ablation"] = "training"
    recipe: str | None = None
    """Registered recipe that made this experiment."""
    workflow: str | None = None
    """Registered workflow whose nodes ``pipeline`` holds."""
    pipeline: tuple[PipelineNode, ...] = Field(min_length=1)
    backend: BackendRef = BackendRef()
    model: ModelRef | None = None
    dataset: DatasetRef | None = None
    eval_dataset: DatasetRef | None = None
    training: TrainingConfig | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    """Everything else the workflow's stages read (renderer, maximum length, cadences …)."""
    seed: int = Field(default=0, ge=0)
    outputs: tuple[OutputSpec, ...] = ()
    owner: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)
    baseline: str | None = None
    """Run or experiment this one is to be compared with."""
    created_at: datetime | None = None
    """Not part of ``config_digest``."""

    @property
    def config_digest(self) -> str:
        """Digest of what decides the result: all but id, description, owner, tags, metadata, dates."""
        return self.model_copy(
            update={
                "id": "-",
                "description": "",
                "owner": None,
                "tags": (),
                "metadata": {},
                "created_at": None,
                "baseline": None,
            }
        ).content_digest
