"""Functions that do what a PythonBridge must survive; run them in its workers alone."""

from __future__ import annotations

import os
import signal
from typing import Any

__all__ = ["PROBES", "crash", "echo", "fail", "greedy", "hang", "process_id", "swallow"]


def echo(*, value: Any) -> Any:
    """``value`` itself."""
    return value


def process_id() -> int:
    """The worker's process id."""
    return os.getpid()


def hang() -> None:
    """Never returns: one operation that holds the interpreter, so that no signal handler and no thread gets a turn."""
    pow(3, 10**100_000, 10**100_000 + 7)
    raise AssertionError("this number needs longer than the test")


def crash(**arguments: Any) -> None:
    """Ends the process the way a fault in native code does, whatever it is asked."""
    os.kill(os.getpid(), signal.SIGSEGV)


def greedy(*, megabytes: int = 1 << 14) -> int:
    """Takes so much memory, a megabyte at a time."""
    return len([bytearray(1 << 20) for _ in range(megabytes)])


def swallow(*, megabytes: int = 1 << 14) -> str:
    """Takes so much memory, and goes on as if nothing had happened when there is none left."""
    try:
        greedy(megabytes=megabytes)
    except MemoryError:
        return "incorrect"
    return "never reached"


def fail(*, message: str) -> None:
    """Raises ValueError."""
    raise ValueError(message)


PROBES = {
    function.__name__: f"crucible_testing.bridge_functions:{function.__name__}"
    for function in (echo, process_id, hang, crash, greedy, swallow, fail)
}
"""The functions above as a bridge's list wants them."""
