"""Bounded queues: how much waits, and the refusal when it is too much."""

from __future__ import annotations

from dataclasses import dataclass

from crucible_gateway.tinker.settings import Limits
from crucible_ir import ServiceError

__all__ = ["Backlog", "OverloadedError"]


class OverloadedError(ServiceError):
    """Too much waits already; the same request may come again after ``retry_after_s``."""

    def __init__(self, what: str) -> None:
        super().__init__(
            what=what,
            where="server",
            remedy="wait, then send it again",
            retryable=True,
            retry_after_s=1.0,
        )


@dataclass(slots=True)
class Backlog:
    """What waits in the whole server."""

    limits: Limits
    requests: int = 0
    bytes: int = 0
    samples: int = 0

    def admit_request(self, waiting: int, size: int) -> None:
        """Refuse a training request whose model has ``waiting`` others.

        Raises:
            OverloadedError: its queue, or the memory for all queues, is full.
        """
        if waiting >= self.limits.waiting_requests:
            raise OverloadedError(f"{waiting} requests of this model wait")
        if self.bytes + size > self.limits.waiting_bytes:
            raise OverloadedError(f"{self.bytes} bytes of requests wait")

    def admit_sample(self) -> None:
        """Refuse a sampling request where too many are not done.

        Raises:
            OverloadedError: they are.
        """
        if self.samples >= self.limits.waiting_samples:
            raise OverloadedError(f"{self.samples} sampling requests wait")
