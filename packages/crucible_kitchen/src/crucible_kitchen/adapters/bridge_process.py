"""One worker process of a bridge, seen from the caller: started, asked one thing at a time, killed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crucible_train.ports import BridgeReply

__all__ = ["BridgeProcess", "WorkerLimits"]

_START_LIMIT_S = 60.0
_KEPT_VARIABLES = ("COVERAGE", "LANG", "LC_", "PATH", "PYTHON", "TMPDIR", "VIRTUAL_ENV")
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """What one worker may take: address space in megabytes, and calls before it is replaced."""

    memory_mb: int
    calls: int


class BridgeProcess:
    """A ``python -m crucible_kitchen.adapters.bridge_worker``; one call at a time, JSON lines over its pipes.

    The first call waits until the worker has imported its functions, beside the call's own time limit.
    """

    def __init__(self, *, functions: Mapping[str, str], limits: WorkerLimits) -> None:
        self._setup = json.dumps({"functions": dict(functions), "memory_mb": limits.memory_mb})
        self._calls_left = limits.calls
        self._ready = False
        self._received = b""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "crucible_kitchen.adapters.bridge_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if key.startswith(_KEPT_VARIABLES)},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def lives(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process at once, from any thread; whoever waits for its answer sees it end."""
        self._process.kill()

    def dispose(self) -> None:
        """End the process and free its pipes; nobody else may be using it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def ask(self, request: str, timeout_s: float) -> tuple[BridgeReply, bool]:
        """The reply to one request, and whether the process may be asked again."""
        if not self._ready:
            started = self._start()
            if started is not None:
                return started, False
        answer = self._exchange(request, timeout_s)
        self._calls_left -= 1
        if answer is None:
            reply = BridgeReply(
                fault="timeout", message=f"no answer within {timeout_s:g} s; the worker was killed"
            )
            return reply, False
        if not answer:
            return BridgeReply(fault="crash", message=self._end()), False
        if "value" in answer:
            return BridgeReply(value=answer["value"]), self._calls_left > 0
        reply = BridgeReply(fault=answer["fault"], message=answer["message"])
        return reply, reply.fault == "error" and self._calls_left > 0

    def _start(self) -> BridgeReply | None:
        """Let the worker import its functions; the fault if it cannot."""
        answer = self._exchange(self._setup, _START_LIMIT_S)
        if answer is None:
            return BridgeReply(
                fault="timeout", message=f"the worker did not start within {_START_LIMIT_S:g} s"
            )
        if not answer:
            return BridgeReply(fault="crash", message=f"the worker did not start: {self._end()}")
        if "message" in answer:
            return BridgeReply(fault="unavailable", message=answer["message"])
        self._ready = True
        return None

    def _exchange(self, line: str, timeout_s: float) -> dict[str, Any] | None:
        """Send one line, read one: the answer; an empty one when the process ended; None when time ran out."""
        assert self._process.stdin is not None
        deadline = time.monotonic() + timeout_s
        try:
            self._process.stdin.write(f"{timeout_s} {line}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            return {}
        return self._read(deadline)

    def _read(self, deadline: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._received:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                return {}
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> str:
        code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the worker ended with {name}"
