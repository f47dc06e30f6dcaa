"""Feedback: what users said or did about an answer, and when to train again."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime, Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from crucible_ir.contract import Contract
from crucible_ir.json_values import JsonData, JsonObject
from crucible_ir.vocabulary import FeedbackType, SignalType

__all__ = ["DriftConfig", "FeedbackConfig", "FeedbackEvent", "RetrainingTrigger"]

_VALUES: dict[FeedbackType, tuple[tuple[type, ...], str]] = {
    FeedbackType.THUMBS: ((bool,), "true or false"),
    FeedbackType.RATING: ((int, float), "a number"),
    FeedbackType.CORRECTION: ((str,), "the corrected text"),
    FeedbackType.LABEL: ((str,), "the label"),
}


class FeedbackEvent(Contract):
    """One user's answer to one completion."""

    schema_version: int = Field(default=1, ge=1, le=1)
    id: str = Field(min_length=1)
    deployment_id: str | None = None
    model_version: str | None = None
    """Id of the version that answered."""
    input: JsonData = None
    output: JsonData = None
    feedback_type: FeedbackType | None = None
    feedback_value: JsonData = None
    """Thumbs: true or false; rating: a number; correction and label: text."""
    signal: SignalType | None = None
    """What exactly the user did, when it is known."""
    user_id: str | None = None
    session_id: str | None = None
    latency_s: float | None = Field(default=None, ge=0)
    at: AwareDatetime | None = None
    metadata: JsonObject = Field(default_factory=dict)

    @field_validator("feedback_value")
    @classmethod
    def _of_its_type(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("feedback_type")
        if value is None or kind not in _VALUES:
            return value
        types, described = _VALUES[kind]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ValueError(f"should be {described} for feedback of type {kind.value!r}")
        return value

    @field_validator("signal")
    @classmethod
    def _of_the_same_kind(cls, signal: SignalType | None, info: ValidationInfo) -> SignalType | None:
        kind = info.data.get("feedback_type")
        if signal is not None and kind is not None and signal.feedback_type is not kind:
            raise ValueError(
                f"belongs to feedback of type {signal.feedback_type.value!r}, not {kind.value!r}"
            )
        return signal


class DriftConfig(Contract):
    """When answers or inputs count as changed."""

    enabled: bool = False
    methods: tuple[Literal["statistical", "embedding", "output"], ...] = ("statistical", "output")
    window: int = Field(default=1000, ge=2)
    """Events compared with the baseline."""
    min_samples: int = Field(default=1000, ge=2)
    """Fewer than this is ``insufficient_data``, never drift."""
    threshold: float = Field(default=0.2, ge=0)
    alpha: float = Field(default=0.05, ge=0, le=1)


class RetrainingTrigger(Contract):
    """When to train again; None switches one trigger off."""

    drift_threshold: float | None = Field(default=0.2, ge=0)
    quality_threshold: float | None = Field(default=0.7, ge=0, le=1)
    data_count: int | None = Field(default=1000, ge=1)
    """New examples since the last training."""
    interval_s: float | None = Field(default=86_400.0, gt=0)
    cooldown_s: float = Field(default=0.0, ge=0)


class FeedbackConfig(Contract):
    """What feedback is collected and for how long it is kept."""

    enabled: bool = False
    sampling_rate: float = Field(default=1.0, ge=0, le=1)
    feedback_types: tuple[FeedbackType, ...] = (FeedbackType.THUMBS, FeedbackType.CORRECTION)
    storage: str = "sqlite"
    """Registered feedback store."""
    retention_days: int | None = Field(default=None, ge=0)
    anonymize_pii: bool = True
    drift: DriftConfig | None = None
    retraining: RetrainingTrigger | None = None
    options: JsonObject = Field(default_factory=dict)
