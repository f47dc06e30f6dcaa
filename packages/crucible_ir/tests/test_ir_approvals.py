"""Approvals."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from crucible_ir import ApprovalDecision, ApprovalRequest, ConfigError, digest_of

ASKED = {"run_id": "r1", "stage": "promote", "question": "Promote?", "payload": {"nll": 1.5, "model": "m"}}
REQUEST = ApprovalRequest.parse(ASKED)


def test_the_digest_is_that_of_run_stage_question_and_payload() -> None:
    assert REQUEST.digest == digest_of(ASKED)
    assert (
        ApprovalRequest.of(run_id="r1", stage="promote", question="Promote?", payload=ASKED["payload"])
        == REQUEST
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [{"run_id": "r2"}, {"stage": "other"}, {"question": "Really?"}, {"payload": {"nll": 1.6, "model": "m"}}],
)
def test_whatever_is_asked_otherwise_has_another_digest(change: dict[str, object]) -> None:
    assert ApprovalRequest.parse({**ASKED, **change}).digest != REQUEST.digest


def test_the_order_of_the_payload_does_not_matter() -> None:
    assert ApprovalRequest.parse({**ASKED, "payload": {"model": "m", "nll": 1.5}}).digest == REQUEST.digest


def test_a_request_with_a_digest_of_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match="digest: is not the digest of this run"):
        ApprovalRequest.parse({**ASKED, "digest": digest_of("else")})
    assert ApprovalRequest.parse(REQUEST.model_dump_json()) == REQUEST


def test_a_broken_request_is_told_its_own_problems_and_none_of_the_digest() -> None:
    with pytest.raises(ConfigError) as caught:
        ApprovalRequest.parse({**ASKED, "run_id": "", "payload": {"x": object()}})
    assert {problem.path for problem in caught.value.problems} == {"run_id", "payload.x"}
    with pytest.raises(ConfigError) as caught:
        ApprovalRequest.parse({**ASKED, "run_id": "", "digest": REQUEST.digest})
    assert {problem.path for problem in caught.value.problems} == {"run_id"}


def test_a_decision_answers_only_what_was_asked() -> None:
    at = datetime(2026, 1, 6, tzinfo=UTC)
    decision = ApprovalDecision(
        request_digest=REQUEST.digest, approved=False, actor="ann", comment="no", at=at
    )
    assert decision.answers(REQUEST)
    assert not decision.answers(ApprovalRequest.parse({**ASKED, "payload": {}}))
