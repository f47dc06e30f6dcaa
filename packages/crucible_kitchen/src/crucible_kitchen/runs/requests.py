"""What others ask of a run through its log: to stop, to go on after a decision."""

from __future__ import annotations

import os

from crucible_ir import FINAL_STATES, ConflictError, EventType, RunRecord, RunState
from crucible_ir.approvals import ApprovalDecision
from crucible_kitchen.runs.folder import RunFolder

__all__ = ["CancelWatch", "DecisionBook", "cancel", "decide", "mark_interrupted"]


def mark_interrupted(run: RunFolder) -> None:
    """Write down that the owner is gone; to be called by the next owner, under the lease."""
    if run.logged_record().state is RunState.RUNNING:
        run.append(EventType.RUN_INTERRUPTED, {"reason": "the owner ended without a word"})


def cancel(run: RunFolder, *, actor: str = "local") -> RunRecord:
    """Stop the run: at once when nobody runs it, else by a request that its owner sees within a second.

    Raises:
        ConflictError: the run has ended already.
    """
    record = run.record()
    if record.state in FINAL_STATES:
        raise ConflictError(
            what=f"{run.run_id} is {record.state} already", where="cancel", remedy="nothing is left to cancel"
        )
    lease = run.lease()
    try:
        lease.acquire()
    except ConflictError:
        run.append(EventType.RUN_CANCEL_REQUESTED, {"actor": actor})
        return run.record()
    try:
        record = run.logged_record()
        if record.state not in FINAL_STATES:
            mark_interrupted(run)
            run.append(EventType.RUN_CANCELLED, {"actor": actor})
    finally:
        lease.release()
    return run.record()


def decide(run: RunFolder, decision: ApprovalDecision) -> RunRecord:
    """Answer what the run waits for; the first answer counts. ``resume`` lets it go on.

    Raises:
        ConflictError: the run waits for nothing, for something else, or was answered already.
    """
    record = run.record()
    asked = record.waiting_for
    if record.state is not RunState.WAITING_APPROVAL or asked is None:
        raise ConflictError(
            what=f"{run.run_id} is {record.state} and waits for no decision",
            where="decide",
            remedy=f"look at it with `crucible show {run.run_id}`",
        )
    if asked.get("digest") != decision.request_digest:
        raise ConflictError(
            what=f"the decision answers {decision.request_digest}, but {run.run_id} asks {asked.get('digest')}",
            where="decide.request_digest",
            remedy="read again what is asked and decide on that",
        )
    given = asked.get("decision")
    if given is not None:
        raise ConflictError(
            what=f"{given.get('actor')} has decided already ({'yes' if given.get('approved') else 'no'})",
            where="decide",
            remedy=f"go on with `crucible resume {run.run_id}`",
        )
    run.append(EventType.RUN_DECISION, {"decision": decision.model_dump(mode="json")})
    return run.record()


class DecisionBook:
    """Decisions in a run's log by the digest of what was asked; the first on each counts."""

    def __init__(self, run: RunFolder) -> None:
        self._log = run.log()
        self._last = 0
        self._decisions: dict[str, ApprovalDecision] = {}

    def __call__(self, request_digest: str) -> ApprovalDecision | None:
        """The decision, or None as long as there is none."""
        for event in self._log.read(after=self._last):
            self._last = event.seq
            if event.type == EventType.RUN_DECISION:
                decision = ApprovalDecision.parse(
                    event.data["decision"], where=f"events.jsonl, line {event.seq}"
                )
                self._decisions.setdefault(decision.request_digest, decision)
        return self._decisions.get(request_digest)


class CancelWatch:
    """Whether somebody asked the run to stop since event ``after``; one ``stat`` when nothing happened."""

    def __init__(self, run: RunFolder, *, after: int) -> None:
        self._path = str(run.events_path)
        self._log = run.log()
        self._last = after
        self._size = -1
        self._asked = False

    def __call__(self) -> bool:
        """True from the request on."""
        if self._asked:
            return True
        size = os.stat(self._path).st_size  # noqa: PTH116 - asked before every stage
        if size != self._size:
            self._size = size
            for event in self._log.read(after=self._last):
                self._last = event.seq
                self._asked = self._asked or event.type == EventType.RUN_CANCEL_REQUESTED
        return self._asked
