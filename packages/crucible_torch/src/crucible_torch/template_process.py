"""Chat templates run in a process of their own, which is killed when one of them does not end."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from crucible_ir.errors import ConfigError, ServiceError
from crucible_train.ports import TemplateCall, TemplateText

__all__ = ["TemplateProcess", "shared_process"]

_START_LIMIT_S = 120.0
_LIMIT_S = 20.0
_CHUNK = 1 << 16
_KEPT_VARIABLES = ("COVERAGE", "LANG", "LC_", "PATH", "PYTHON", "TMPDIR", "VIRTUAL_ENV")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
_SIGNS = "%Y %y %m %d %-d %-m %B %b %A %a %j %H %I %M %S %p %e".split()


class TemplateProcess:
    """Starts its worker with the first request, and another one after one was killed; any thread may ask.

    ``limit_s`` is what all calls of one request may take together.
    """

    def __init__(self, *, limit_s: float = _LIMIT_S) -> None:
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._received = b""

    def render(
        self,
        sources: Mapping[str, str],
        calls: Sequence[TemplateCall],
        *,
        variables: Mapping[str, Any],
        current_date: str | None,
    ) -> list[TemplateText]:
        """What a template writes for each call; errors in all of them if it does not end or breaks the worker.

        ``sources`` holds the template for conversations without tools (``plain``) and with (``tools``).

        Raises:
            ConfigError: ``current_date`` is no day.
            ServiceError: the worker does not start.
        """
        request = {
            "sources": dict(sources),
            "calls": [asdict(call) for call in calls],
            "variables": dict(variables),
            "day": None if current_date is None else _day(current_date),
        }
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            self._start()
            try:
                answer = self._exchange(line, self._limit_s)
            except BaseException:
                self._end()  # an answer that nobody read would be taken for that to the next request
                raise
            if isinstance(answer, str):
                self._end()
                return [TemplateText(error=answer)] * len(calls)
        return [_text(row) for row in answer]

    def close(self) -> None:
        """End the worker; closing twice is harmless, and a later request starts another one."""
        with self._lock:
            self._end()

    def _start(self) -> None:
        if self._worker is not None and self._worker.poll() is None:
            return
        self._end()
        kept = {key: value for key, value in os.environ.items() if key.startswith(_KEPT_VARIABLES)}
        self._worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "crucible_torch.template_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=kept | _ONE_THREAD,
            start_new_session=True,
        )
        ready = json.dumps({"calls": []}).encode() + b"\n"
        problem = self._exchange(ready, _START_LIMIT_S)
        if isinstance(problem, str):
            self._end()
            raise ServiceError(
                what=f"the process that runs chat templates does not start ({problem})",
                where="chat template",
                remedy="crucible doctor looks at the installation",
            )

    def _exchange(self, line: bytes, limit_s: float) -> list[dict[str, Any]] | str:
        """Send one line and read one; the reason where none comes."""
        worker = self._worker
        assert worker is not None
        assert worker.stdin is not None
        deadline = time.monotonic() + limit_s
        try:
            worker.stdin.write(line)
            worker.stdin.flush()
        except BrokenPipeError:
            return "its process ended"
        return self._read(worker, deadline, limit_s)

    def _read(
        self, worker: subprocess.Popen[bytes], deadline: float, limit_s: float
    ) -> list[dict[str, Any]] | str:
        assert worker.stdout is not None
        descriptor = worker.stdout.fileno()
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return f"it did not end within {limit_s:g} s"
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                return "its process ended"
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        answer: list[dict[str, Any]] = json.loads(line)
        return answer

    def _end(self) -> None:
        worker, self._worker, self._received = self._worker, None, b""
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@cache
def shared_process() -> TemplateProcess:
    """The one process of this program; it ends with it."""
    process = TemplateProcess()
    atexit.register(process.close)
    return process


def _text(row: Mapping[str, Any]) -> TemplateText:
    if "error" in row:
        return TemplateText(error=row["error"])
    marks = row["generated"]
    return TemplateText(
        text=row["text"], generated=None if marks is None else tuple((start, end) for start, end in marks)
    )


def _day(text: str) -> dict[str, str]:
    """What each sign of ``strftime`` means on that day, at midnight; longer signs first."""
    try:
        day = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            what=f"{text!r} is no day", where="current_date", remedy="give YYYY-MM-DD, such as '2025-01-01'"
        ) from None
    return {sign: day.strftime(sign) for sign in sorted(_SIGNS, key=len, reverse=True)}
