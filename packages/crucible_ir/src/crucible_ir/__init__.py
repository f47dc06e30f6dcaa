"""Contracts of the Crucible platform: experiments, refs, run records, events, errors, canonical digests."""

from crucible_ir.canonical import canonical_json, digest_bytes, digest_of
from crucible_ir.contract import Contract
from crucible_ir.datasets import DatasetSnapshot, Drop, Row
from crucible_ir.errors import (
    AdapterError,
    CancelledRun,
    ConfigError,
    ConflictError,
    CrucibleError,
    DataError,
    ExitCode,
    IntegrityError,
    NotFoundError,
    Problem,
    ServiceError,
    StorageError,
    TrainError,
    nearest,
)
from crucible_ir.events import Event, EventType, MetricRow, Usage
from crucible_ir.experiment import (
    BackendRef,
    Experiment,
    IfDef,
    LoopDef,
    OutputSpec,
    ParallelDef,
    PipelineNode,
    RetryPolicy,
    StageDef,
)
from crucible_ir.refs import ArtifactRef, CheckpointRef, DatasetRef, ModelRef, Ref, RunRef
from crucible_ir.results import ExampleResult
from crucible_ir.run import FINAL_STATES, TRANSITIONS, RunRecord, RunState
from crucible_ir.training import LoraSpec, OptimizerSpec, ScheduleSpec, TrainingConfig

__all__ = [
    "FINAL_STATES",
    "TRANSITIONS",
    "AdapterError",
    "ArtifactRef",
    "BackendRef",
    "CancelledRun",
    "CheckpointRef",
    "ConfigError",
    "ConflictError",
    "Contract",
    "CrucibleError",
    "DataError",
    "DatasetRef",
    "DatasetSnapshot",
    "Drop",
    "Event",
    "EventType",
    "ExampleResult",
    "ExitCode",
    "Experiment",
    "IfDef",
    "IntegrityError",
    "LoopDef",
    "LoraSpec",
    "MetricRow",
    "ModelRef",
    "NotFoundError",
    "OptimizerSpec",
    "OutputSpec",
    "ParallelDef",
    "PipelineNode",
    "Problem",
    "Ref",
    "RetryPolicy",
    "Row",
    "RunRecord",
    "RunRef",
    "RunState",
    "ScheduleSpec",
    "ServiceError",
    "StageDef",
    "StorageError",
    "TrainError",
    "TrainingConfig",
    "Usage",
    "canonical_json",
    "digest_bytes",
    "digest_of",
    "nearest",
]
