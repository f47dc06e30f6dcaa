"""The result of work that was submitted and may not be done yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

__all__ = ["Handle"]

T = TypeVar("T")
U = TypeVar("U")


class Handle(Generic[T]):
    """Await it in async code, or call ``result`` in plain code.

    Submission happens when the handle is made, so a caller may submit the next piece of work before
    it awaits this one. Cancelling the task that awaits does not cancel the work: a step that was
    submitted is applied.
    """

    __slots__ = ("_future",)

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    @classmethod
    def completed(cls, value: T) -> Handle[T]:
        """A handle whose result is there already."""
        future: Future[T] = Future()
        future.set_result(value)
        return cls(future)

    def done(self) -> bool:
        """Whether ``result`` would return or raise at once."""
        return self._future.done()

    def result(self, timeout_s: float | None = None) -> T:
        """The result, after waiting at most ``timeout_s`` seconds; raises what the work raised."""
        return self._future.result(timeout_s)

    def then(self, make: Callable[[T], U]) -> Handle[U]:
        """A handle of what ``make`` gives for the result; it raises what either of them raised.

        ``make`` runs once, on the thread that finishes the work (at once where it is finished), so it must not wait.
        """
        following: Future[U] = Future()
        self._future.add_done_callback(lambda done: _settle(following, lambda: make(done.result())))
        return Handle(following)

    def chain(self, begin: Callable[[T], Handle[U]]) -> Handle[U]:
        """As ``then``, for a ``begin`` that submits further work: the result is that of the further work."""
        following: Future[U] = Future()

        def go_on(begun: Future[Handle[U]]) -> None:
            error = begun.exception()
            if error is not None:
                following.set_exception(error)
                return
            begun.result()._future.add_done_callback(lambda done: _settle(following, done.result))

        self.then(begin)._future.add_done_callback(go_on)
        return Handle(following)

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in the running asyncio loop, then return or raise."""
        if self._future.done():
            return self._future.result()
        return (yield from asyncio.shield(asyncio.wrap_future(self._future)).__await__())


def _settle(future: Future[U], work: Callable[[], U]) -> None:
    try:
        value = work()
    except BaseException as error:  # noqa: BLE001 - whatever it is, a cancellation too: who waits must get it
        future.set_exception(error)
    else:
        future.set_result(value)
