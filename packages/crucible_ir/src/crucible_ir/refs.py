"""Typed references: what a thing is, which bytes it is, and what it came from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from crucible_ir.contract import Contract
from crucible_ir.json_values import JsonObject
from crucible_ir.vocabulary import ModelStage

__all__ = ["ArtifactRef", "CheckpointRef", "DatasetRef", "Digest", "ModelRef", "Ref", "RunRef"]

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""``sha256:`` and 64 hex digits."""


class Ref(Contract):
    """An open, typed reference; other kinds (evaluation, deployment, feedback, approval) use it as it is."""

    kind: str = Field(min_length=1)
    """What kind of thing this is: dataset, run, checkpoint, model, artifact, evaluation …"""
    id: str = Field(min_length=1)
    """Name of the thing within its kind."""
    digest: Digest | None = None
    """Digest of its content, once known."""
    produced_by: str | None = None
    """Id of the run that made it."""
    parents: tuple[str, ...] = ()
    """Ids (``kind:id``) of what it was made from."""

    @property
    def key(self) -> str:
        """``kind:id``."""
        return f"{self.kind}:{self.id}"


class DatasetRef(Ref):
    """Which rows, from where, in which order, turned how; digests are filled in by loading."""

    kind: Literal["dataset"] = "dataset"
    id: str = Field(min_length=1)
    """Path of a file or folder, hub id, or registered name."""
    source: Literal["auto", "file", "hub", "memory", "store"] = "auto"
    """Where to look; ``auto`` takes an existing path as a file and anything else as a hub id."""
    format: Literal["auto", "jsonl", "csv", "json", "parquet"] = "auto"
    """File format; ``auto`` goes by the file's name."""
    config: str | None = None
    """Configuration of a hub dataset; ``a+b`` reads one after the other."""
    split: str = "train"
    """Which part of it; ``train+test`` reads one after the other."""
    revision: str | None = None
    shuffle_seed: int | None = None
    """Order rows by ``default_rng(seed).permutation(n)``; None keeps the order of the source."""
    limit: int | None = Field(default=None, ge=1)
    """Keep the first rows after ordering."""
    skip: int = Field(default=0, ge=0)
    """Leave out the first rows after ordering, before ``limit``."""
    streaming: bool = False
    """Read no further than ``skip`` and ``limit`` need; rows are then ordered through a buffer."""
    shuffle_buffer: int = Field(default=10_000, ge=1)
    """Rows held at once when streamed rows are shuffled."""
    mapping: JsonObject = Field(default_factory=dict)
    """Field mapping: which schema the rows have and which columns carry its fields."""
    order_digest: Digest | None = None
    """Digest of the order of the rows, once loaded."""
    transform_digest: Digest | None = None
    """Digest of mapping and filters, once loaded."""
    rows: int | None = Field(default=None, ge=0)
    """Number of rows after loading."""


class ModelRef(Ref):
    """A model: base, fine-tuned or registered."""

    kind: Literal["model"] = "model"
    version: str | None = None
    uri: str | None = None
    """Folder or hub id from which it loads."""
    base_model: str | None = None
    """Id of the model that an adapter goes on."""
    stage: ModelStage = ModelStage.DEVELOPMENT
    metadata: JsonObject = Field(default_factory=dict)


class CheckpointRef(Ref):
    """Saved training state or sampler weights."""

    kind: Literal["checkpoint"] = "checkpoint"
    path: str
    """Folder of the checkpoint."""
    content: Literal["state", "sampler"] = "state"
    """``state`` holds optimiser and random state too; ``sampler`` holds weights alone."""
    step: int | None = Field(default=None, ge=0)
    """Number of optimiser steps applied."""


class ArtifactRef(Ref):
    """A file that a run made."""

    kind: Literal["artifact"] = "artifact"
    uri: str
    media_type: str = "application/octet-stream"
    size_bytes: int | None = Field(default=None, ge=0)


class RunRef(Ref):
    """A run, as others refer to it."""

    kind: Literal["run"] = "run"
    experiment_id: str | None = None
    status: str | None = None
