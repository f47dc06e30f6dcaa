"""The experiment: the one value that is hashed, stored, diffed, sent and replayed."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field, field_validator

from crucible_ir.canonical import digest_of
from crucible_ir.contract import Contract
from crucible_ir.errors import Problem
from crucible_ir.json_values import JsonObject
from crucible_ir.pipeline import (
    IfDef,
    LoopDef,
    ParallelDef,
    PipelineNode,
    RegisteredName,
    RetryPolicy,
    StageDef,
    pipeline_problems,
)
from crucible_ir.problems import complaint
from crucible_ir.refs import DatasetRef, ModelRef
from crucible_ir.reliability import ReliabilityConfig
from crucible_ir.training import TrainingConfig
from crucible_ir.vocabulary import ExperimentType

__all__ = [
    "SCHEMA_VERSION",
    "UNDIGESTED",
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

UNDIGESTED = frozenset(
    {
        "schema_version",
        "id",
        "description",
        "owner",
        "tags",
        "metadata",
        "baseline",
        "created_at",
        "updated_at",
    }
)
"""Fields that say who, when and what for; none decides what a run computes."""


class BackendRef(Contract):
    """Which manifest profile serves the ports, and per-port adapter choices on top of it."""

    manifest: str = Field(default="offline", min_length=1)
    """Name of a built-in profile, or path of a manifest file."""
    adapters: dict[str, RegisteredName] = Field(default_factory=dict)
    """Port name → adapter name, over the manifest's choice."""
    options: dict[str, JsonObject] = Field(default_factory=dict)
    """Port name → adapter options, over the manifest's."""


class OutputSpec(Contract):
    """A report to write at the end."""

    name: str = Field(min_length=1)
    formats: tuple[Literal["markdown", "json", "html"], ...] = Field(default=("markdown",), min_length=1)
    sink: Literal["file", "stdout"] = "file"


class Experiment(Contract):
    """What is to be done, whole: workflow, data, model, training settings, seed."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    id: str = Field(min_length=1)
    description: str = ""
    experiment_type: ExperimentType = ExperimentType.TRAINING
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
    reliability: ReliabilityConfig | None = None
    settings: JsonObject = Field(default_factory=dict)
    """Everything else the workflow's stages read (renderer, maximum length, cadences …)."""
    seed: int = Field(default=0, ge=0)
    outputs: tuple[OutputSpec, ...] = ()
    owner: str | None = None
    tags: tuple[str, ...] = ()
    metadata: JsonObject = Field(default_factory=dict)
    baseline: str | None = None
    """Run or experiment this one is to be compared with."""
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None

    @field_validator("pipeline")
    @classmethod
    def _consistent(cls, pipeline: tuple[PipelineNode, ...]) -> tuple[PipelineNode, ...]:
        problems = pipeline_problems(pipeline)
        if problems:
            raise complaint(problems)
        return pipeline

    @field_validator("outputs")
    @classmethod
    def _told_apart(cls, outputs: tuple[OutputSpec, ...]) -> tuple[OutputSpec, ...]:
        names = [output.name for output in outputs]
        twins = [n for n, name in enumerate(names) if name in names[:n]]
        if twins:
            raise complaint(
                [
                    Problem(path=f"[{n}].name", message=f"the output {names[n]!r} stands in the list already")
                    for n in twins
                ]
            )
        return outputs

    @property
    def config_digest(self) -> str:
        """Digest of what decides the result: all fields but those in ``UNDIGESTED``.

        Fields that are None are left out of what is digested, so that an optional field added later leaves
        the digests of stored experiments as they are.
        """
        return digest_of(self.model_dump(exclude=set(UNDIGESTED), exclude_none=True))
