"""Registered models: one version with what made it."""

from __future__ import annotations

from pydantic import AwareDatetime, Field

from crucible_ir.contract import Measured
from crucible_ir.json_values import JsonObject
from crucible_ir.refs import ArtifactRef, Digest
from crucible_ir.versions import VersionId
from crucible_ir.vocabulary import LineageType, ModelStage

__all__ = ["ModelVersion"]


class ModelVersion(Measured):
    """One version of a registered model; what a registry is asked to keep and what it gives back."""

    schema_version: int = Field(default=1, ge=1, le=1)
    id: str = Field(min_length=1)
    model_id: str = Field(min_length=1)
    """Name of the model."""
    version: VersionId
    stage: ModelStage = ModelStage.DEVELOPMENT
    description: str = ""
    recipe: str | None = None
    base_model: str | None = None
    training_run_id: str | None = None
    config_digest: Digest | None = None
    """``Experiment.config_digest`` of what made it."""
    parent_version: str | None = None
    """Id of the version it was trained from."""
    lineage: LineageType | None = None
    """How it came from its parent."""
    metrics: dict[str, float] = Field(default_factory=dict)
    artifact_uri: str | None = None
    artifacts: tuple[ArtifactRef, ...] = ()
    created_at: AwareDatetime | None = None
    created_by: str | None = None
    options: JsonObject = Field(default_factory=dict)
