"""Trying again: only calls that do no harm when they are done twice, later each time, and never all at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from crucible_ir.errors import ConfigError, ServiceError

__all__ = ["Retries"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and when a call is tried again.

    Before try n + 1 it waits between half and all of min(``longest_s``, ``first_s``·2ⁿ) seconds, at random, and never
    less than the service asked for in Retry-After. ``wait`` and ``chance`` (uniform in [0, 1)) are for tests.

    Raises:
        ConfigError: a value outside its range.
    """

    attempts: int = 4
    first_s: float = 1.0
    longest_s: float = 30.0
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = field(default_factory=lambda: random.Random().random)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(what=f"attempts = {self.attempts}", where="attempts", remedy="give 1 at least")
        if self.first_s < 0:
            raise ConfigError(what=f"{self.first_s} s", where="first_wait_s", remedy="give seconds ≥ 0")

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of the first try that goes through.

        Raises:
            ServiceError: the last try failed, or the service asks to wait longer than an hour.
            CrucibleError: an error that trying again does not mend; at once.
        """
        for number in range(self.attempts - 1):
            try:
                return await attempt()
            except ServiceError as error:
                if not error.retryable or (error.retry_after_s or 0) > 3600:
                    raise
                await self.wait(self.delay(number, error.retry_after_s))
        return await attempt()

    def delay(self, number: int, retry_after_s: float | None) -> float:
        """Seconds to wait after try ``number`` (from 0) failed."""
        backed_off = min(self.longest_s, self.first_s * 2.0**number)
        return max(backed_off * (0.5 + 0.5 * self.chance()), retry_after_s or 0.0)
