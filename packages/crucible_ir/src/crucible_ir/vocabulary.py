"""The closed vocabularies of the platform, each in this one place.

Neighbouring systems spell some of these ideas differently; where one of their words means the same thing it
is taken as the member (``ModelStage("experiment") is ModelStage.DEVELOPMENT``) and never written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

__all__ = [
    "ArtifactType",
    "Correction",
    "CurationSource",
    "DeployState",
    "DeployStrategy",
    "EffectSize",
    "EnsembleStrategy",
    "ExecutionMode",
    "ExperimentType",
    "FairnessMetric",
    "FeedbackType",
    "FinishReason",
    "Health",
    "HedgingStrategy",
    "LineageType",
    "ModelStage",
    "ResponseFormat",
    "Role",
    "SignalType",
    "StatTest",
    "StorageKind",
    "ToolChoiceMode",
    "TraceType",
]


class _Vocabulary(StrEnum):
    """Words with synonyms; an unknown word is an error, never a new member."""

    @classmethod
    def synonyms(cls) -> Mapping[str, str]:
        """Neighbours' words for members: word → value."""
        return _SYNONYMS.get(cls.__name__, MappingProxyType({}))

    @classmethod
    def _missing_(cls, value: object) -> _Vocabulary | None:
        known = cls.synonyms().get(value) if isinstance(value, str) else None
        return None if known is None else cls(known)


class ModelStage(_Vocabulary):
    """Where a model version stands."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"


class DeployStrategy(_Vocabulary):
    """How a new version takes over from the old one."""

    ROLLING = "rolling"
    """Replica by replica."""
    BLUE_GREEN = "blue_green"
    """The new one is started beside the old, then all traffic moves at once."""
    CANARY = "canary"
    """Traffic moves in steps, each held until it is healthy."""
    REPLACE = "replace"
    """The new one is started, then the old one is stopped."""
    RECREATE = "recreate"
    """The old one is stopped, then the new one is started."""
    AB_TEST = "ab_test"
    """Both take traffic until a verdict."""


class DeployState(_Vocabulary):
    """Where a deployment stands."""

    PENDING = "pending"
    DEPLOYING = "deploying"
    CANARY = "canary"
    PROMOTING = "promoting"
    ACTIVE = "active"
    DEGRADED = "degraded"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    TERMINATED = "terminated"


class Health(_Vocabulary):
    """What a health check found."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class FeedbackType(_Vocabulary):
    """What kind of answer a user gave; the words of ``SignalType`` are taken as their kind."""

    THUMBS = "thumbs"
    RATING = "rating"
    CORRECTION = "correction"
    LABEL = "label"
    FLAG = "flag"
    BEHAVIOUR = "behaviour"
    """Implied by what the user did: regenerated, copied, shared."""


class SignalType(_Vocabulary):
    """What exactly a user did."""

    THUMBS_UP = "thumbs_up"
    THUMBS_DOWN = "thumbs_down"
    REGENERATE = "regenerate"
    EDIT = "edit"
    COPY = "copy"
    SHARE = "share"
    REPORT = "report"
    RATING = "rating"
    LABEL = "label"

    @property
    def feedback_type(self) -> FeedbackType:
        """The kind of feedback this signal is."""
        return FeedbackType(self.value)


class CurationSource(_Vocabulary):
    """Why an example was chosen for training."""

    HIGH_QUALITY = "high_quality"
    HARD_EXAMPLE = "hard_example"
    DIVERSE = "diverse"
    USER_EDIT = "user_edit"


class LineageType(_Vocabulary):
    """How a model version came from its parent."""

    FINE_TUNED_FROM = "fine_tuned_from"
    DISTILLED_FROM = "distilled_from"
    RL_TRAINED_FROM = "rl_trained_from"
    DPO_TRAINED_FROM = "dpo_trained_from"
    MERGED_FROM = "merged_from"


class ArtifactType(_Vocabulary):
    """What a stored file of a model version is."""

    CHECKPOINT = "checkpoint"
    ADAPTER = "adapter"
    MERGED = "merged"
    TOKENIZER = "tokenizer"
    CONFIG = "config"
    GGUF = "gguf"
    ONNX = "onnx"
    TENSORRT = "tensorrt"
    REPORT = "report"


class StorageKind(_Vocabulary):
    """Where bytes are stored."""

    LOCAL = "local"
    MEMORY = "memory"
    S3 = "s3"
    HUGGINGFACE = "huggingface"
    TINKER = "tinker"


class ExperimentType(_Vocabulary):
    """What an experiment is for."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    COMPARISON = "comparison"
    ABLATION = "ablation"


class TraceType(_Vocabulary):
    """What an event of a decision trace is about."""

    HYPOTHESIS_FORMED = "hypothesis_formed"
    ALTERNATIVE_REJECTED = "alternative_rejected"
    CONSTRAINT_EVALUATED = "constraint_evaluated"
    PATTERN_APPLIED = "pattern_applied"
    AMBIGUITY_FLAGGED = "ambiguity_flagged"
    CONFIDENCE_UPDATED = "confidence_updated"
    DECISION_MADE = "decision_made"
    TRAINING_STARTED = "training_started"
    TRAINING_COMPLETED = "training_completed"
    EPOCH_STARTED = "epoch_started"
    EPOCH_COMPLETED = "epoch_completed"
    BATCH_PROCESSED = "batch_processed"
    LOSS_COMPUTED = "loss_computed"
    METRIC_RECORDED = "metric_recorded"
    GRADIENT_COMPUTED = "gradient_computed"
    CHECKPOINT_SAVED = "checkpoint_saved"
    CHECKPOINT_LOADED = "checkpoint_loaded"
    EARLY_STOPPED = "early_stopped"
    DEPLOYMENT_STARTED = "deployment_started"
    MODEL_LOADED = "model_loaded"
    INFERENCE_COMPLETED = "inference_completed"
    DEPLOYMENT_COMPLETED = "deployment_completed"
    REWARD_RECEIVED = "reward_received"
    POLICY_UPDATED = "policy_updated"
    EXPERIENCE_SAMPLED = "experience_sampled"
    STAGE_STARTED = "stage_started"
    STAGE_COMPLETED = "stage_completed"
    STAGE_FAILED = "stage_failed"


class EnsembleStrategy(_Vocabulary):
    """How several answers become one."""

    NONE = "none"
    MAJORITY = "majority"
    WEIGHTED = "weighted"
    BEST_CONFIDENCE = "best_confidence"
    UNANIMOUS = "unanimous"


class ExecutionMode(_Vocabulary):
    """In which order the models of an ensemble are asked."""

    PARALLEL = "parallel"
    SEQUENTIAL = "sequential"
    HEDGED = "hedged"
    CASCADE = "cascade"


class HedgingStrategy(_Vocabulary):
    """How long to wait before a backup request."""

    OFF = "off"
    FIXED = "fixed"
    PERCENTILE = "percentile"
    ADAPTIVE = "adaptive"
    WORKLOAD_AWARE = "workload_aware"
    EXPONENTIAL_BACKOFF = "exponential_backoff"


class StatTest(_Vocabulary):
    """A test of a difference."""

    TTEST = "ttest"
    WELCH = "welch"
    PAIRED_TTEST = "paired_ttest"
    MANN_WHITNEY = "mann_whitney"
    WILCOXON = "wilcoxon"
    ANOVA = "anova"
    KRUSKAL_WALLIS = "kruskal_wallis"
    BOOTSTRAP = "bootstrap"


class EffectSize(_Vocabulary):
    """A measure of how large a difference is."""

    COHENS_D = "cohens_d"
    HEDGES_G = "hedges_g"
    GLASS_DELTA = "glass_delta"
    PAIRED_D = "paired_d"
    ETA_SQUARED = "eta_squared"
    OMEGA_SQUARED = "omega_squared"
    EPSILON_SQUARED = "epsilon_squared"
    RANK_BISERIAL = "rank_biserial"


class Correction(_Vocabulary):
    """A correction for several tests at once."""

    NONE = "none"
    BONFERRONI = "bonferroni"
    HOLM = "holm"
    BENJAMINI_HOCHBERG = "benjamini_hochberg"


class FairnessMetric(_Vocabulary):
    """A measure of how alike groups are treated."""

    DEMOGRAPHIC_PARITY = "demographic_parity"
    EQUALIZED_ODDS = "equalized_odds"
    EQUAL_OPPORTUNITY = "equal_opportunity"
    PREDICTIVE_PARITY = "predictive_parity"


class Role(_Vocabulary):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class FinishReason(_Vocabulary):
    """Why a completion ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    ERROR = "error"


class ToolChoiceMode(_Vocabulary):
    """Whether tools may be called."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class ResponseFormat(_Vocabulary):
    """The form an answer must have."""

    TEXT = "text"
    JSON = "json"
    JSON_SCHEMA = "json_schema"


_SYNONYMS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "ModelStage": {"experiment": "development", "experimental": "development"},
        "DeployStrategy": {"blue-green": "blue_green", "ab": "ab_test"},
        "FeedbackType": {
            "thumbs_up": "thumbs",
            "thumbs_down": "thumbs",
            "edit": "correction",
            "report": "flag",
            "regenerate": "behaviour",
            "copy": "behaviour",
            "share": "behaviour",
        },
        "SignalType": {"correction": "edit", "flag": "report"},
        "LineageType": {
            "fine_tune": "fine_tuned_from",
            "distillation": "distilled_from",
            "rl": "rl_trained_from",
            "dpo": "dpo_trained_from",
            "merge": "merged_from",
        },
        "StatTest": {"t_test": "ttest", "welch_t_test": "welch", "paired_t_test": "paired_ttest"},
        "Correction": {"fdr": "benjamini_hochberg"},
        "ArtifactType": {"weights": "checkpoint"},
        "TraceType": {"stage_start": "stage_started", "stage_complete": "stage_completed"},
    }
)
