"""Mathematics in worker processes that can be killed: the PythonBridge of sympy, pylatexenc and math-verify."""

from __future__ import annotations

import importlib.util
import json
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar

from crucible_ir import ConfigError, ConflictError, DataError, NotFoundError, Problem, nearest
from crucible_ir.contract import JsonValue
from crucible_kitchen.adapters.bridge_process import BridgeProcess, WorkerLimits
from crucible_kitchen.adapters.hf_client import missing_sdk
from crucible_train.ports import BridgeReply, Handle

__all__ = ["MATH_FUNCTIONS", "MathBridge"]

_FUNCTIONS = "crucible_kitchen.adapters.math_functions"
MATH_FUNCTIONS: Mapping[str, str] = {
    "cookbook_exact": f"{_FUNCTIONS}:cookbook_exact",
    "latex_to_sympy": f"{_FUNCTIONS}:latex_to_sympy",
    "math_verify": f"{_FUNCTIONS}:math_verify",
    "prm_form": f"{_FUNCTIONS}:prm_normal_form",
}
"""The functions that the workers run, and nothing else: name and ``module:function``."""
_PACKAGES = {"sympy": "sympy", "pylatexenc": "pylatexenc", "math_verify": "math-verify"}


@dataclass(slots=True, kw_only=True)
class _Workers:
    """The live processes: those that wait for work, and all of them. Guarded by ``lock``."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    idle: list[BridgeProcess] = field(default_factory=list)
    live: set[BridgeProcess] = field(default_factory=set)
    closed: bool = False

    def kill(self) -> None:
        with self.lock:
            self.closed = True
            idle, self.idle = self.idle, []
            busy = self.live.difference(idle)
            self.live.clear()
        for process in busy:
            process.kill()  # its thread sees it end and disposes of it
        for process in idle:
            process.dispose()


class MathBridge:
    """sympy, pylatexenc and math-verify in worker processes that are killed when they misbehave.

    At most ``workers`` processes, started with ``python -m`` when they are needed. They speak JSON over pipes, see no
    secrets of the environment, may take ``memory_mb`` megabytes (RLIMIT_AS) and are replaced after
    ``calls_per_worker`` calls. A call that runs longer than ``timeout_s`` seconds ends with SIGKILL of its process.
    ``functions`` lists what may be called (name: ``module:function``; keyword arguments and result are JSON). Needs
    Linux for the memory limit.

    Raises:
        AdapterError: a package of the extra ``math`` is not installed.
        ConfigError: a limit is not positive.
    """

    required_modules: ClassVar[tuple[str, ...]] = tuple(_PACKAGES)

    def __init__(
        self,
        *,
        workers: int = 2,
        timeout_s: float = 5.0,
        memory_mb: int = 1024,
        calls_per_worker: int = 2000,
        functions: Mapping[str, str] = MATH_FUNCTIONS,
    ) -> None:
        for module, package in _PACKAGES.items():
            if importlib.util.find_spec(module) is None:
                raise missing_sdk(group="crucible.python_bridge", name="math", package=package, extra="math")
        limits = {
            "workers": workers,
            "timeout_s": timeout_s,
            "memory_mb": memory_mb,
            "calls_per_worker": calls_per_worker,
        }
        problems = [
            Problem(path=name, message=f"{value} is not positive", remedy="give a number above 0")
            for name, value in limits.items()
            if value <= 0
        ]
        if problems:
            raise ConfigError(problems=problems)
        self._functions = dict(functions)
        self._limits = WorkerLimits(memory_mb=memory_mb, calls=calls_per_worker)
        self._timeout_s = timeout_s
        self._workers = _Workers()
        self._threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="math-bridge")
        weakref.finalize(self, self._workers.kill)

    def functions(self) -> Sequence[str]:
        """Names of the functions that may be called, sorted."""
        return sorted(self._functions)

    def call(
        self, function: str, arguments: Mapping[str, JsonValue], *, timeout_s: float | None = None
    ) -> Handle[BridgeReply]:
        """Run ``function`` in a worker; the reply holds its value or the fault.

        Raises:
            NotFoundError: no such function.
            DataError: ``arguments`` are not JSON.
            ConflictError: the bridge is closed.
        """
        if function not in self._functions:
            near = nearest(function, self._functions)
            raise NotFoundError(
                what=f"the bridge has no function {function!r}",
                where="python_bridge",
                remedy=f"did you mean {near!r}?" if near else f"functions: {', '.join(self.functions())}",
            )
        try:
            request = json.dumps({"function": function, "arguments": dict(arguments)}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(
                what=f"the arguments of {function!r} are not JSON: {error}",
                where="python_bridge",
                remedy="pass texts, numbers, lists and objects",
            ) from error
        if self._workers.closed:
            raise ConflictError(
                what="the bridge is closed", where="python_bridge", remedy="make another bridge"
            )
        limit = self._timeout_s if timeout_s is None else timeout_s
        future: Future[BridgeReply] = self._threads.submit(self._run, request, limit)
        return Handle(future)

    async def close(self) -> None:
        """Kill every worker; calls under way end with the fault ``crash``."""
        self._workers.kill()
        self._threads.shutdown(wait=True)

    def _run(self, request: str, timeout_s: float) -> BridgeReply:
        process = self._take()
        if process is None:
            return BridgeReply(fault="crash", message="the bridge was closed")
        reply, reusable = process.ask(request, timeout_s)
        with self._workers.lock:
            if reusable and not self._workers.closed:
                self._workers.idle.append(process)
                return reply
            self._workers.live.discard(process)
        process.dispose()
        return reply

    def _take(self) -> BridgeProcess | None:
        """A worker that lives: one that waits, else a new one; None once the bridge is closed."""
        while True:
            with self._workers.lock:
                if self._workers.closed:
                    return None
                process = self._workers.idle.pop() if self._workers.idle else None
                if process is None:
                    process = BridgeProcess(functions=self._functions, limits=self._limits)
                    self._workers.live.add(process)
                    return process
                if process.lives():
                    return process
                self._workers.live.discard(process)
            process.dispose()
