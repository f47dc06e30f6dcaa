"""A journal of what a fake was asked for and what was awaited, with calls that fail on purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from crucible_ir import ServiceError
from crucible_train.ports import Handle

__all__ = ["Journal", "NotedHandle"]

T = TypeVar("T")


class NotedHandle(Handle[T]):
    """A handle that says when it is awaited."""

    __slots__ = ("_note",)

    def __init__(self, future: Future[T], note: Callable[[], None]) -> None:
        super().__init__(future)
        self._note = note

    def result(self, timeout_s: float | None = None) -> T:
        """The result; noted."""
        self._note()
        return super().result(timeout_s)

    def __await__(self) -> Generator[Any, None, T]:
        """The result; noted."""
        self._note()
        return (yield from super().__await__())


@dataclass(slots=True)
class Journal:
    """What was submitted and awaited, in order, and which calls are to fail.

    Every call is ``name n`` with n from 0 for each name. ``fail`` maps a name to the number of the call that
    fails once with a retryable ServiceError, from its handle or already ``when_submitted``.
    """

    fail: Mapping[str, int] = field(default_factory=dict)
    when_submitted: bool = False
    lines: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def perform(self, name: str, work: Callable[[int], T]) -> Handle[T]:
        """Do the work at once and give its handle."""
        number = self.counts[name]
        self.counts[name] += 1
        fails = self.fail.get(name) == number
        error = ServiceError(what=f"call {number} was to fail", where=name, retryable=True)
        if fails and self.when_submitted:
            raise error
        self.lines.append(f"submit {name} {number}")
        future: Future[T] = Future()
        try:
            if fails:
                raise error
            future.set_result(work(number))
        except Exception as problem:  # noqa: BLE001 - handed on to whoever awaits
            future.set_exception(problem)
        return NotedHandle(future, lambda: self.lines.append(f"await {name} {number}"))
