"""The one thread that does all work of an engine, in the order it was submitted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from crucible_ir.errors import ConflictError
from crucible_train.ports import Handle

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """Runs jobs one after another on a thread of its own; a job that fails does not stop those after it."""

    def __init__(self, name: str = "crucible-torch") -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, job: Callable[[], T]) -> Handle[T]:
        """Queue ``job`` behind everything submitted before it.

        Raises:
            ConflictError: the worker was closed.
        """
        return Handle(self.future(job))

    def future(self, job: Callable[[], T]) -> Future[T]:
        """As ``submit``; the bare future.

        Raises:
            ConflictError: the worker was closed.
        """
        with self._lock:
            if self._closed:
                raise ConflictError(
                    what="the engine is closed", where="LocalBackend", remedy="make a new backend"
                )
            return self._executor.submit(job)

    def close(self) -> None:
        """Finish what was submitted, then end the thread; closing twice is harmless."""
        with self._lock:
            self._closed = True
        self._executor.shutdown(wait=True)
