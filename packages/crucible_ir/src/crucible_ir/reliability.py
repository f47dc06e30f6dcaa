"""Reliability: ensembles, hedging, statistics, fairness, guardrails, monitoring, circuit breakers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from crucible_ir.contract import Contract
from crucible_ir.errors import Problem, nearest
from crucible_ir.feedback import DriftConfig, FeedbackConfig
from crucible_ir.json_values import JsonObject
from crucible_ir.problems import complaint
from crucible_ir.vocabulary import (
    Correction,
    EffectSize,
    EnsembleStrategy,
    ExecutionMode,
    FairnessMetric,
    HedgingStrategy,
    StatTest,
)

__all__ = [
    "AlertRule",
    "CircuitBreakerConfig",
    "EnsembleConfig",
    "FairnessConfig",
    "GuardrailConfig",
    "HedgingConfig",
    "MonitoringConfig",
    "ReliabilityConfig",
    "StatsConfig",
]


class EnsembleConfig(Contract):
    """Several models asked, one answer given."""

    strategy: EnsembleStrategy = EnsembleStrategy.NONE
    execution_mode: ExecutionMode = ExecutionMode.PARALLEL
    models: tuple[str, ...] = Field(default=(), validate_default=True)
    weights: dict[str, float] = Field(default_factory=dict)
    """Model → weight, for the strategy ``weighted``."""
    min_agreement: float | None = Field(default=None, ge=0, le=1)
    """Share of the votes that the answer must have."""
    timeout_s: float | None = Field(default=None, gt=0)
    options: JsonObject = Field(default_factory=dict)

    @field_validator("models")
    @classmethod
    def _some_to_ask(cls, models: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        strategy = info.data.get("strategy", EnsembleStrategy.NONE)
        if not models and strategy is not EnsembleStrategy.NONE:
            raise ValueError(f"should name models for the strategy {strategy.value!r}")
        return models

    @field_validator("weights")
    @classmethod
    def _of_the_models(cls, weights: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        models = info.data.get("models", tuple(weights))
        problems = []
        for model, weight in weights.items():
            if model not in models:
                near = nearest(model, models)
                remedy = f"did you mean {near!r}?" if near else f"valid: {', '.join(models)}"
                problems.append(Problem(path=model, message="is not one of the models", remedy=remedy))
            elif weight < 0:
                problems.append(Problem(path=model, message=f"should be at least 0, not {weight!r}"))
        if problems:
            raise complaint(problems)
        return weights


class HedgingConfig(Contract):
    """A backup request after a delay; the first answer wins."""

    strategy: HedgingStrategy = HedgingStrategy.OFF
    delay_s: float | None = Field(default=None, ge=0, validate_default=True)
    """Wait before a backup; the strategy ``fixed`` needs it."""
    percentile: float | None = Field(default=None, gt=0, lt=100)
    """Percentile of past latencies to wait, for the strategy ``percentile``."""
    max_hedges: int | None = Field(default=None, ge=0)
    budget_percent: float | None = Field(default=None, ge=0, le=100)
    """Largest share of requests that may be hedged."""
    options: JsonObject = Field(default_factory=dict)

    @field_validator("delay_s")
    @classmethod
    def _fixed_needs_it(cls, delay_s: float | None, info: ValidationInfo) -> float | None:
        if delay_s is None and info.data.get("strategy") is HedgingStrategy.FIXED:
            raise ValueError("should be given for the strategy 'fixed'")
        return delay_s


class StatsConfig(Contract):
    """How a difference is tested."""

    tests: tuple[StatTest, ...] = (StatTest.TTEST, StatTest.BOOTSTRAP)
    alpha: float = Field(default=0.05, ge=0, le=1)
    confidence_level: float | None = Field(default=None, ge=0, le=1)
    """None is ``1 - alpha``."""
    effect_size: EffectSize | None = None
    correction: Correction | None = None
    bootstrap_iterations: int | None = Field(default=None, ge=1)
    options: JsonObject = Field(default_factory=dict)


class FairnessConfig(Contract):
    """Whether groups are treated alike."""

    enabled: bool = False
    metrics: tuple[FairnessMetric, ...] = ()
    group_by: str | None = Field(default=None, validate_default=True)
    """Field that names the group; needed when enabled."""
    threshold: float | None = Field(default=None, ge=0)
    fail_on_violation: bool = False
    options: JsonObject = Field(default_factory=dict)

    @field_validator("group_by")
    @classmethod
    def _needed_when_enabled(cls, group_by: str | None, info: ValidationInfo) -> str | None:
        if group_by is None and info.data.get("enabled"):
            raise ValueError("should name the field of the group when fairness is enabled")
        return group_by


class GuardrailConfig(Contract):
    """What is looked for in prompts and answers."""

    profiles: tuple[str, ...] = ("default",)
    prompt_injection_detection: bool = False
    jailbreak_detection: bool = False
    pii_detection: bool = False
    pii_redaction: bool = False
    content_moderation: bool = False
    fail_on_detection: bool = False
    options: JsonObject = Field(default_factory=dict)


class AlertRule(Contract):
    """A bound on one metric."""

    metric: str = Field(min_length=1)
    above: float | None = None
    below: float | None = Field(default=None, validate_default=True)
    for_s: float = Field(default=0.0, ge=0)
    """How long the bound must be passed before it counts."""
    severity: Literal["info", "warning", "critical"] = "warning"

    @field_validator("below")
    @classmethod
    def _one_bound(cls, below: float | None, info: ValidationInfo) -> float | None:
        if below is None and "above" in info.data and info.data["above"] is None:
            raise ValueError("should be given when 'above' is not")
        return below


class MonitoringConfig(Contract):
    """Which metrics are watched and when somebody is told."""

    enabled: bool = False
    metrics: tuple[str, ...] = ()
    interval_s: float = Field(default=60.0, gt=0)
    alerts: tuple[AlertRule, ...] = ()
    options: JsonObject = Field(default_factory=dict)


class CircuitBreakerConfig(Contract):
    """When a failing service is left alone for a while."""

    enabled: bool = False
    failure_threshold: int = Field(default=5, ge=1)
    """Failures within the window that open the circuit."""
    window_s: float = Field(default=60.0, gt=0)
    open_s: float = Field(default=30.0, gt=0)
    """How long calls are refused before one is tried again."""
    half_open_calls: int = Field(default=1, ge=1)
    """Calls that must succeed to close the circuit."""


class ReliabilityConfig(Contract):
    """All of it; None leaves a part out."""

    ensemble: EnsembleConfig | None = None
    hedging: HedgingConfig | None = None
    guardrails: GuardrailConfig | None = None
    stats: StatsConfig | None = None
    fairness: FairnessConfig | None = None
    monitoring: MonitoringConfig | None = None
    drift: DriftConfig | None = None
    circuit_breaker: CircuitBreakerConfig | None = None
    feedback: FeedbackConfig | None = None
