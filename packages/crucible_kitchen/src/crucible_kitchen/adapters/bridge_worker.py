"""The program of a bridge's worker: imports the functions of its list, then answers one call after the other.

Each line on its standard input is a time limit in seconds, a blank and a JSON object: first
``{"functions": {name: "module:function"}, "memory_mb": n}``, then ``{"function": name, "arguments": {...}}``. Each
answer is one JSON object on one line: ``{"ready": true}``, ``{"value": ...}``, or ``{"fault": ..., "message": ...}``.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import resource
from collections.abc import Callable
from typing import Any, BinaryIO

__all__ = ["main"]

_GRACE_S = 2
_LONGEST_MESSAGE = 300
_PEAK = re.compile(rb"VmHWM:\s*(\d+) kB")


def main() -> None:
    """Serve standard input until it ends."""
    asked, answers = _own_pipes()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    functions: dict[str, Callable[..., Any]] = {}
    memory_mb = 0
    for number, line in enumerate(asked):
        limit, _, text = line.partition(b" ")
        request = json.loads(text)
        if number == 0:
            memory_mb = request["memory_mb"]
            _limit_memory(memory_mb)
            answer = _load(request["functions"], functions)
        else:
            _limit_time(float(limit))
            answer = _call(functions[request["function"]], request["arguments"], memory_mb)
        answers.write(answer + b"\n")
        answers.flush()


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Pipes that only this loop uses: what a library prints goes nowhere, and it finds nothing to read."""
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)
    return asked, answers


def _limit_memory(megabytes: int) -> None:
    limit = megabytes << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_time(seconds: float) -> None:
    """Let the kernel end this process if a call burns more processor time than it has: its caller may be gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds) + _GRACE_S
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _load(targets: dict[str, str], functions: dict[str, Callable[..., Any]]) -> bytes:
    try:
        for name, target in targets.items():
            module, _, attribute = target.partition(":")
            functions[name] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, MemoryError) as error:
        return _answer(message=_told(error))
    return _answer(ready=True)


def _call(function: Callable[..., Any], arguments: dict[str, Any], memory_mb: int) -> bytes:
    try:
        answer = _answer(value=function(**arguments))
    except MemoryError as error:
        return _answer(fault="memory", message=f"out of {memory_mb} MB: {_told(error)}")
    except Exception as error:  # noqa: BLE001 - the boundary of a process: whatever is raised is the answer
        return _answer(fault="error", message=_told(error))
    if 2 * _peak_memory() > memory_mb << 20:
        return _answer(
            fault="memory", message=f"took more than half of {memory_mb} MB; its value is not trusted"
        )
    return answer


def _peak_memory() -> int:
    """Most bytes that this program ever held; ``ru_maxrss`` would count those of the process that started it."""
    with open("/proc/self/status", "rb", buffering=0) as status:  # noqa: PTH123 - it may have no memory left for more
        found = _PEAK.search(status.read(1 << 14))
    return int(found[1]) << 10 if found else 0


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_LONGEST_MESSAGE]


def _answer(**fields: Any) -> bytes:
    return json.dumps(fields, allow_nan=False).encode()


if __name__ == "__main__":
    main()
