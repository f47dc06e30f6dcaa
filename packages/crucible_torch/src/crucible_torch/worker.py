"""The one thread that does all work of an engine, in the order it was submitted."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from crucible_ir.errors import ConflictError
from crucible_train.ports import Handle

__all__ = ["Pool", "Request", "Worker"]

T = TypeVar("T")


class Request(Protocol):
    """A piece of shared work: whoever runs it fills ``future``."""

    @property
    def future(self) -> Future[Any]:
        """Where the result or the error goes."""
        ...


class Pool(Protocol):
    """Does requests together. Pools of equal ``key`` stand for each other."""

    @property
    def key(self) -> Hashable:
        """Equal for pools that stand for each other."""
        ...

    def run(self, requests: Sequence[Any], more: Callable[[], Sequence[Any]]) -> None:
        """Do all ``requests``, and those that ``more`` gives when it is asked in between."""
        ...


class _Entry:
    """A job of its own, or a request and the pool that it belongs to."""

    __slots__ = ("future", "job", "pool", "request")

    def __init__(
        self, job: Callable[[], Any] | None, *, pool: Pool | None = None, request: Request | None = None
    ) -> None:
        self.job = job
        self.pool = pool
        self.request = request
        self.future: Future[Any] = Future() if request is None else request.future


class Worker:
    """Runs jobs one after another on a thread of its own; a job that fails does not stop those after it.

    Shared requests of one pool are run together: those that wait with no job before them, and those that come
    while they run. Between requests of several pools the order may change, against a job never.
    """

    def __init__(self, name: str = "crucible-torch") -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._queue: deque[_Entry] = deque()
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
        return self._add(_Entry(job))

    def share(self, pool: Pool, request: Request) -> None:
        """Queue ``request`` behind every job submitted before it, to be run with its like.

        Raises:
            ConflictError: the worker was closed.
        """
        self._add(_Entry(None, pool=pool, request=request))

    def close(self) -> None:
        """Finish what was submitted, then end the thread; closing twice is harmless."""
        with self._lock:
            self._closed = True
        self._executor.shutdown(wait=True)

    def _add(self, entry: _Entry) -> Future[Any]:
        with self._lock:
            if self._closed:
                raise ConflictError(
                    what="the engine is closed", where="LocalBackend", remedy="make a new backend"
                )
            self._queue.append(entry)
            self._executor.submit(self._turn)
        return entry.future

    def _turn(self) -> None:
        """Do what is first in the queue; there is a turn for every entry, so the last ones may find none."""
        with self._lock:
            if not self._queue:
                return
            entry = self._queue.popleft()
        if entry.pool is not None:
            self._run_pool(entry.pool, entry.request)
        elif entry.job is not None and entry.future.set_running_or_notify_cancel():
            _settle(entry.future, entry.job)

    def _run_pool(self, pool: Pool, first: Any) -> None:
        taken = [first, *self._take(pool.key, past_others=True)]

        def more() -> list[Any]:
            found = self._take(pool.key, past_others=False)
            taken.extend(found)
            return found

        try:
            pool.run(list(taken), more)
        except BaseException as error:  # noqa: BLE001 - handed on to whoever awaits
            for request in taken:
                if not request.future.done():
                    request.future.set_exception(error)

    def _take(self, key: Hashable, *, past_others: bool) -> list[Any]:
        """Requests of that key from the front of the queue, up to the first job.

        Passing by requests of other pools is for the start of a run alone: a run that always found more
        would keep them waiting for ever.
        """
        found: list[Any] = []
        passed: list[_Entry] = []
        with self._lock:
            while self._queue and self._queue[0].pool is not None:
                pool = self._queue[0].pool
                if pool.key == key:
                    found.append(self._queue.popleft().request)
                elif past_others:
                    passed.append(self._queue.popleft())
                else:
                    break
            self._queue.extendleft(reversed(passed))
        return found


def _settle(future: Future[Any], job: Callable[[], Any]) -> None:
    try:
        result = job()
    except BaseException as error:  # noqa: BLE001 - handed on to whoever awaits
        future.set_exception(error)
    else:
        future.set_result(result)
