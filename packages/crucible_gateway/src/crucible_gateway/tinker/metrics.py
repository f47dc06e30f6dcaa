"""What the server counts, for Prometheus and for ``crucible serve status``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Meters", "resident_bytes"]

_WINDOW_S = 60.0


class Meters:
    """Counters since the start, and rates over the last minute."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._now = now
        self._recent: deque[tuple[float, str, int]] = deque()
        self.registry = registry = CollectorRegistry()
        self._tokens = Counter(
            "crucible_tokens", "Tokens that were computed on.", ["kind"], registry=registry
        )
        self._steps = Counter("crucible_optimizer_steps", "Optimiser steps.", registry=registry)
        self._requests = Counter(
            "crucible_requests", "Requests by endpoint and status.", ["endpoint", "status"], registry=registry
        )
        self._seconds = Histogram(
            "crucible_request_seconds", "Time until an answer began.", ["endpoint"], registry=registry
        )
        self._gauge = Gauge("crucible_state", "What there is now.", ["of"], registry=registry)

    def trained(self, tokens: int, *, forward_only: bool) -> None:
        """Note a forward and maybe backward pass."""
        self._count("forward" if forward_only else "trained", tokens)

    def sampled(self, tokens: int, prompt_tokens: int) -> None:
        """Note continuations."""
        self._count("sampled", tokens)
        self._count("prompt", prompt_tokens)

    def stepped(self) -> None:
        """Note an optimiser step."""
        self._steps.inc()

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Note a request."""
        self._requests.labels(endpoint=endpoint, status=str(status)).inc()
        self._seconds.labels(endpoint=endpoint).observe(seconds)

    def rates(self) -> dict[str, float]:
        """Tokens per second of each kind, over the last minute."""
        since = self._now() - _WINDOW_S
        while self._recent and self._recent[0][0] < since:
            self._recent.popleft()
        totals: dict[str, float] = {"trained": 0.0, "sampled": 0.0}
        for _, kind, tokens in self._recent:
            totals[kind] = totals.get(kind, 0.0) + tokens
        return {kind: total / _WINDOW_S for kind, total in sorted(totals.items())}

    def exposition(self, state: dict[str, Any]) -> bytes:
        """Everything in the text format of Prometheus; ``state`` is what there is now."""
        from prometheus_client import generate_latest

        for name, value in state.items():
            if isinstance(value, int | float):
                self._gauge.labels(of=name).set(value)
        for kind, rate in self.rates().items():
            self._gauge.labels(of=f"{kind}_tokens_per_second").set(rate)
        return bytes(generate_latest(self.registry))

    def _count(self, kind: str, tokens: int) -> None:
        self._tokens.labels(kind=kind).inc(tokens)
        self._recent.append((self._now(), kind, tokens))
        if len(self._recent) > 100_000:
            self._recent.popleft()


def resident_bytes() -> int | None:
    """Memory of this process, where the system tells it."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return None
    import resource

    return pages * resource.getpagesize()
