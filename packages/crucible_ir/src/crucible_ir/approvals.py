"""Questions that a run asks of a person, and decisions bound to exactly what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import AwareDatetime, Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from crucible_ir.canonical import digest_of
from crucible_ir.contract import Contract
from crucible_ir.json_values import JsonObject
from crucible_ir.refs import Digest

__all__ = ["ApprovalDecision", "ApprovalRequest"]

_ASKED = ("run_id", "stage", "question", "payload")


def _digest_of_asked(fields: dict[str, Any]) -> str:
    if any(name not in fields for name in _ASKED):
        return ""  # one of them is wrong and reported: there is nothing to digest
    return digest_of({name: fields[name] for name in _ASKED})


class ApprovalRequest(Contract):
    """What is asked; ``digest`` covers run, stage, question and payload, so a decision fits nothing else."""

    run_id: str = Field(min_length=1)
    stage: str = Field(min_length=1)
    """Label of the stage that waits."""
    question: str = Field(min_length=1)
    payload: JsonObject = Field(default_factory=dict)
    """What the decision is about: the model, its figures, the cost …"""
    digest: Digest = Field(default_factory=_digest_of_asked)
    """Computed when left out, checked when given."""

    @field_validator("digest")
    @classmethod
    def _of_what_is_asked(cls, digest: str, info: ValidationInfo) -> str:
        expected = _digest_of_asked(info.data)
        if expected and digest != expected:
            raise ValueError("is not the digest of this run, stage, question and payload")
        return digest

    @classmethod
    def of(cls, *, run_id: str, stage: str, question: str, payload: Mapping[str, Any]) -> Self:
        """The request with its digest computed."""
        return cls(run_id=run_id, stage=stage, question=question, payload=dict(payload))


class ApprovalDecision(Contract):
    """The answer to one request."""

    request_digest: Digest
    """Digest of the request that was answered; a decision on anything else is void."""
    approved: bool
    actor: str = Field(min_length=1)
    """Who decided."""
    comment: str = ""
    at: AwareDatetime | None = None

    def answers(self, request: ApprovalRequest) -> bool:
        """Whether this decides ``request``."""
        return self.request_digest == request.digest
