"""Deployments: what is to be served, how it takes over, and how it stands."""

from __future__ import annotations

from itertools import pairwise

from pydantic import AwareDatetime, Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from crucible_ir.contract import Contract
from crucible_ir.json_values import JsonObject
from crucible_ir.vocabulary import DeployState, DeployStrategy, Health

__all__ = [
    "CanarySpec",
    "DeploymentConfig",
    "DeploymentStatus",
    "HealthCheckSpec",
    "ResourceSpec",
    "ScalingSpec",
]


class ResourceSpec(Contract):
    """What one replica needs."""

    cpus: float | None = Field(default=None, gt=0)
    memory_gib: float | None = Field(default=None, gt=0)
    gpus: int = Field(default=0, ge=0)
    gpu_type: str | None = None


class ScalingSpec(Contract):
    """How the number of replicas follows the load."""

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1, validate_default=True)
    metric: str = "requests_per_second"
    target: float | None = Field(default=None, gt=0)
    """Value of the metric per replica to hold."""

    @field_validator("max_replicas")
    @classmethod
    def _not_below_min(cls, most: int, info: ValidationInfo) -> int:
        least = info.data.get("min_replicas", 0)
        if most < least:
            raise ValueError(f"should be at least min_replicas ({least})")
        return most


class HealthCheckSpec(Contract):
    """How and how often health is checked."""

    path: str = "/health"
    interval_s: float = Field(default=30.0, gt=0)
    timeout_s: float = Field(default=5.0, gt=0)
    failures: int = Field(default=3, ge=1)
    """Failed checks in a row that count as unhealthy."""


class CanarySpec(Contract):
    """Steps of a canary rollout and what ends it."""

    steps_percent: tuple[int, ...] = Field(default=(10, 30, 50, 100), min_length=1)
    """Traffic of the new version at each step, rising to 100."""
    hold_s: float = Field(default=300.0, ge=0)
    """How long each step is held."""
    max_error_rate: float = Field(default=0.05, ge=0, le=1)
    max_p99_s: float = Field(default=0.5, gt=0)

    @field_validator("steps_percent")
    @classmethod
    def _rise_to_100(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if steps[0] < 1 or steps[-1] != 100 or any(a >= b for a, b in pairwise(steps)):
            raise ValueError("should rise from at least 1 to 100")
        return steps


class DeploymentConfig(Contract):
    """One model version to be served."""

    schema_version: int = Field(default=1, ge=1, le=1)
    id: str = Field(min_length=1)
    model_version_id: str = Field(min_length=1)
    target: str | None = None
    """Registered deployment target; None takes the manifest's."""
    replicas: int = Field(default=1, ge=1)
    strategy: DeployStrategy = DeployStrategy.ROLLING
    environment: str = "development"
    resources: ResourceSpec | None = None
    scaling: ScalingSpec | None = None
    canary: CanarySpec | None = None
    health_check: HealthCheckSpec | None = None
    endpoint: str | None = None
    metadata: JsonObject = Field(default_factory=dict)
    options: JsonObject = Field(default_factory=dict)

    @field_validator("canary")
    @classmethod
    def _only_for_canaries(cls, canary: CanarySpec | None, info: ValidationInfo) -> CanarySpec | None:
        strategy = info.data.get("strategy", DeployStrategy.CANARY)
        if canary is not None and strategy is not DeployStrategy.CANARY:
            raise ValueError(f"is for the strategy 'canary' only, not for {strategy.value!r}")
        return canary


class DeploymentStatus(Contract):
    """How a deployment stands."""

    schema_version: int = Field(default=1, ge=1, le=1)
    id: str = Field(min_length=1)
    deployment_id: str = Field(min_length=1)
    state: DeployState = DeployState.PENDING
    total_replicas: int = Field(default=0, ge=0)
    ready_replicas: int = Field(default=0, ge=0)
    endpoint_url: str | None = None
    traffic_percent: float = Field(default=0.0, ge=0, le=100)
    health: Health = Health.UNKNOWN
    last_health_check: AwareDatetime | None = None
    error_message: str | None = None
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None

    @field_validator("ready_replicas")
    @classmethod
    def _not_above_total(cls, ready: int, info: ValidationInfo) -> int:
        total = info.data.get("total_replicas", ready)
        if ready > total:
            raise ValueError(f"should be at most total_replicas ({total})")
        return ready
