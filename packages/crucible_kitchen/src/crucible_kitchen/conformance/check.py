"""One check: what it looks at, what it builds on, and how it says what it found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crucible_kitchen.conformance.bench import Bench

__all__ = ["Check", "Mismatch", "NotRun", "Run"]

Run = Callable[["Bench"], Awaitable[str]]
"""Does the check and returns what was found, in a few words; raises ``Mismatch`` or ``NotRun``."""


class Mismatch(Exception):
    """What was found is not what has to be.

    ``diagnosis`` says in a sentence what the backend probably does instead.
    """

    def __init__(self, *, expected: str, found: str, diagnosis: str) -> None:
        super().__init__(expected, found, diagnosis)
        self.expected = expected
        self.found = found
        self.diagnosis = diagnosis


class NotRun(Exception):
    """The check cannot be done here, for the reason given."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A row of the suite.

    ``builds_on``: ids of checks without which this one would say nothing of its own; when one of them fails, this
    one is not run. ``tolerance`` says in words what counts as equal. ``needs`` names flags of
    ``BackendCapabilities`` and losses (``loss:ppo``) that the backend must promise.
    """

    id: str
    title: str
    tolerance: str
    run: Run
    builds_on: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]
