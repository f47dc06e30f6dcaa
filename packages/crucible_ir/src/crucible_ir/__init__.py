"""Contracts of the Crucible platform: experiments, refs, run records, events, errors, canonical digests."""

from typing import TYPE_CHECKING, Any

from crucible_ir.approvals import ApprovalDecision, ApprovalRequest
from crucible_ir.canonical import canonical_json, digest_bytes, digest_of
from crucible_ir.contract import Contract, Measured
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
    ProcessLost,
    ServiceError,
    StorageError,
    TrainError,
    error_class,
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
from crucible_ir.redaction import REDACTED, Redactor, redact
from crucible_ir.refs import ArtifactRef, CheckpointRef, DatasetRef, ModelRef, Ref, RunRef
from crucible_ir.results import ExampleResult
from crucible_ir.run import FINAL_STATES, TRANSITIONS, RunRecord, RunState
from crucible_ir.training import LoraSpec, OptimizerSpec, ScheduleSpec, TrainingConfig
from crucible_ir.versions import VersionId, version_id
from crucible_ir.vocabulary import (
    ArtifactType,
    Correction,
    CurationSource,
    DeployState,
    DeployStrategy,
    EffectSize,
    EnsembleStrategy,
    ExecutionMode,
    ExperimentType,
    FairnessMetric,
    FeedbackType,
    FinishReason,
    Health,
    HedgingStrategy,
    LineageType,
    ModelStage,
    ResponseFormat,
    Role,
    SignalType,
    StatTest,
    StorageKind,
    ToolChoiceMode,
    TraceType,
)

if TYPE_CHECKING:
    from crucible_ir.builder import (
        ExperimentBuilder,
    )
    from crucible_ir.deployment import (
        CanarySpec,
        DeploymentConfig,
        DeploymentStatus,
        HealthCheckSpec,
        ResourceSpec,
        ScalingSpec,
    )
    from crucible_ir.feedback import (
        DriftConfig,
        FeedbackConfig,
        FeedbackEvent,
        RetrainingTrigger,
    )
    from crucible_ir.llm import (
        AudioPart,
        Completion,
        CompletionChoice,
        CompletionOptions,
        ImagePart,
        LLMCapabilities,
        MessagePart,
        NamedTool,
        Prompt,
        PromptMessage,
        TextPart,
        TokenUsage,
        ToolCall,
        ToolDef,
        ToolResultPart,
    )
    from crucible_ir.models import (
        ModelVersion,
    )
    from crucible_ir.reliability import (
        AlertRule,
        CircuitBreakerConfig,
        EnsembleConfig,
        FairnessConfig,
        GuardrailConfig,
        HedgingConfig,
        MonitoringConfig,
        ReliabilityConfig,
        StatsConfig,
    )

_LAZY_GROUPS = {
    "builder": ("ExperimentBuilder",),
    "deployment": (
        "CanarySpec",
        "DeploymentConfig",
        "DeploymentStatus",
        "HealthCheckSpec",
        "ResourceSpec",
        "ScalingSpec",
    ),
    "feedback": (
        "DriftConfig",
        "FeedbackConfig",
        "FeedbackEvent",
        "RetrainingTrigger",
    ),
    "llm": (
        "AudioPart",
        "Completion",
        "CompletionChoice",
        "CompletionOptions",
        "ImagePart",
        "LLMCapabilities",
        "MessagePart",
        "NamedTool",
        "Prompt",
        "PromptMessage",
        "TextPart",
        "TokenUsage",
        "ToolCall",
        "ToolDef",
        "ToolResultPart",
    ),
    "models": ("ModelVersion",),
    "reliability": (
        "AlertRule",
        "CircuitBreakerConfig",
        "EnsembleConfig",
        "FairnessConfig",
        "GuardrailConfig",
        "HedgingConfig",
        "MonitoringConfig",
        "ReliabilityConfig",
        "StatsConfig",
    ),
}
"""Groups that few programs need: module → names, imported when a name is first asked for."""
_LAZY = {name: module for module, names in _LAZY_GROUPS.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the group that ``name`` belongs to."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All public names, imported or not."""
    return sorted({*globals(), *__all__})


__all__ = [
    "FINAL_STATES",
    "REDACTED",
    "TRANSITIONS",
    "AdapterError",
    "AlertRule",
    "ApprovalDecision",
    "ApprovalRequest",
    "ArtifactRef",
    "ArtifactType",
    "AudioPart",
    "BackendRef",
    "CanarySpec",
    "CancelledRun",
    "CheckpointRef",
    "CircuitBreakerConfig",
    "Completion",
    "CompletionChoice",
    "CompletionOptions",
    "ConfigError",
    "ConflictError",
    "Contract",
    "Correction",
    "CrucibleError",
    "CurationSource",
    "DataError",
    "DatasetRef",
    "DatasetSnapshot",
    "DeployState",
    "DeployStrategy",
    "DeploymentConfig",
    "DeploymentStatus",
    "DriftConfig",
    "Drop",
    "EffectSize",
    "EnsembleConfig",
    "EnsembleStrategy",
    "Event",
    "EventType",
    "ExampleResult",
    "ExecutionMode",
    "ExitCode",
    "Experiment",
    "ExperimentBuilder",
    "ExperimentType",
    "FairnessConfig",
    "FairnessMetric",
    "FeedbackConfig",
    "FeedbackEvent",
    "FeedbackType",
    "FinishReason",
    "GuardrailConfig",
    "Health",
    "HealthCheckSpec",
    "HedgingConfig",
    "HedgingStrategy",
    "IfDef",
    "ImagePart",
    "IntegrityError",
    "LLMCapabilities",
    "LineageType",
    "LoopDef",
    "LoraSpec",
    "Measured",
    "MessagePart",
    "MetricRow",
    "ModelRef",
    "ModelStage",
    "ModelVersion",
    "MonitoringConfig",
    "NamedTool",
    "NotFoundError",
    "OptimizerSpec",
    "OutputSpec",
    "ParallelDef",
    "PipelineNode",
    "Problem",
    "ProcessLost",
    "Prompt",
    "PromptMessage",
    "Redactor",
    "Ref",
    "ReliabilityConfig",
    "ResourceSpec",
    "ResponseFormat",
    "RetrainingTrigger",
    "RetryPolicy",
    "Role",
    "Row",
    "RunRecord",
    "RunRef",
    "RunState",
    "ScalingSpec",
    "ScheduleSpec",
    "ServiceError",
    "SignalType",
    "StageDef",
    "StatTest",
    "StatsConfig",
    "StorageError",
    "StorageKind",
    "TextPart",
    "TokenUsage",
    "ToolCall",
    "ToolChoiceMode",
    "ToolDef",
    "ToolResultPart",
    "TraceType",
    "TrainError",
    "TrainingConfig",
    "Usage",
    "VersionId",
    "canonical_json",
    "digest_bytes",
    "digest_of",
    "error_class",
    "nearest",
    "redact",
    "version_id",
]
