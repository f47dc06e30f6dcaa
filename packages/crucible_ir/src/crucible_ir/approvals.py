"""Questions that a run asks of a person, and decisions bound to exactly what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import Field

from crucible_ir.canonical import digest_of
from crucible_ir.contract import Contract

__all__ = ["ApprovalDecision", "ApprovalRequest"]


class ApprovalRequest(Contract):
    """What is asked; ``digest`` covers run, stage, question and payload, so a decision fits nothing else."""

    run_id: str
    stage: str
    question: str
    payload: dict[str, Any] = Field(default_factory=dict)
    digest: str

    @classmethod
    def of(cls, *, run_id: str, stage: str, question: str, payload: Mapping[str, Any]) -> Self:
        """The request with its digest computed."""
        facts = {"run_id": run_id, "stage": stage, "question": question, "payload": dict(payload)}
        return cls(**facts, digest=digest_of(facts))


class ApprovalDecision(Contract):
    """The answer to one request."""

    request_digest: str
    approved: bool
    actor: str
    comment: str = ""
    at: datetime | None = None
