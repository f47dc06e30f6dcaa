"""Records of evaluation: one per example, so that comparison is paired."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crucible_ir.contract import Measured
from crucible_ir.json_values import MeasuredObject

__all__ = ["ExampleResult"]


class ExampleResult(Measured):
    """The outcome of one example under one model."""

    schema_version: int = Field(default=1, ge=1, le=1)
    example_id: str
    """Digest of the example's content."""
    metric: str
    score: float
    higher_is_better: bool = True
    verdict: Literal["correct", "incorrect", "cannot_judge"] | None = None
    seed: int | None = None
    step: int | None = Field(default=None, ge=0)
    evaluator: str
    evaluator_digest: str | None = None
    detail: MeasuredObject = Field(default_factory=dict)
