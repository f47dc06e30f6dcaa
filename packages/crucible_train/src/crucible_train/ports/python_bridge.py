"""The port of Python functions that run where they can be killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from crucible_ir.contract import JsonValue
from crucible_train.ports.handle import Handle

__all__ = ["BridgeFault", "BridgeReply", "PythonBridge"]

BridgeFault = Literal["timeout", "memory", "crash", "error", "unavailable"]
"""Why there is no value: out of time, out of memory, the process ended, the function raised, nobody runs it here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeReply:
    """The value of a call, or the fault that there is instead, with a sentence about it."""

    value: JsonValue = None
    fault: BridgeFault | None = None
    message: str = ""


@runtime_checkable
class PythonBridge(Protocol):
    """Calls functions of a fixed list with JSON values, and outlives whatever they do.

    A function that hangs, crashes its process or exhausts memory gives a reply with a fault; it never raises here,
    never blocks longer than its time limit, and never harms the next call.
    """

    def functions(self) -> Sequence[str]:
        """Names of the functions that may be called, sorted."""
        ...

    def call(
        self, function: str, arguments: Mapping[str, JsonValue], *, timeout_s: float | None = None
    ) -> Handle[BridgeReply]:
        """Call ``function`` with keyword ``arguments``; ``timeout_s`` bounds its run time (None: the bridge's limit).

        Waiting for a free worker does not count.

        Raises:
            NotFoundError: ``function`` is not on the list; names the nearest.
            DataError: ``arguments`` are not JSON.
            ConflictError: the bridge is closed.
        """
        ...

    async def close(self) -> None:
        """End every worker, busy or not; what was under way gets the fault ``crash``. Closing twice is harmless."""
        ...
