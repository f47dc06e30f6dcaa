"""Promises: work that a client was told about by id, and its results, for which questions are held open."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from crucible_ir import (
    ConfigError,
    ConflictError,
    CrucibleError,
    DataError,
    IntegrityError,
    NotFoundError,
    TrainError,
)

__all__ = ["Form", "Outcome", "Promise", "Promises", "failure", "json_outcome"]

Form = Literal["output", "sample", "json", "error"]
"""``output`` and ``sample`` are protobuf: ``ForwardBackwardOutput`` and ``SampleResponse``."""

_THE_USERS_OWN = (ConfigError, DataError, NotFoundError, ConflictError, TrainError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a promise came to: bytes, and what they are."""

    form: Form
    body: bytes


def json_outcome(value: dict[str, Any]) -> Outcome:
    """A result that is told as JSON."""
    return Outcome(form="json", body=json.dumps(value).encode())


def failure(error: BaseException) -> Outcome:
    """A failure as the SDK reads it: what the user can put right is ``user``, everything else ``server``."""
    own = isinstance(error, _THE_USERS_OWN) and not isinstance(error, IntegrityError)
    told = str(error) if isinstance(error, CrucibleError) else f"{type(error).__name__}: {error}"
    return Outcome(
        form="error", body=json.dumps({"error": told, "category": "user" if own else "server"}).encode()
    )


@dataclass(slots=True, eq=False)
class Promise:
    """One piece of promised work. ``group`` is what its client polls as a whole: a sampling session's clone."""

    id: str
    group: str = ""
    outcome: Outcome | None = None
    read: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, outcome: Outcome) -> None:
        """Give the result; a promise that has one keeps it."""
        if self.outcome is None:
            self.outcome = outcome
            self.done.set()


class Promises:
    """All promises by id. Results that were read stay, up to a number and a size; the oldest go first."""

    def __init__(self, *, kept: int, kept_bytes: int) -> None:
        self._kept = kept
        self._kept_bytes = kept_bytes
        self._all: dict[str, Promise] = {}
        self._read: OrderedDict[str, int] = OrderedDict()
        self._read_bytes = 0
        self._logs: dict[str, CompletionLog] = {}

    def __len__(self) -> int:
        return len(self._all)

    def open(self, id: str, *, group: str = "") -> Promise:
        """A new promise, or the one of that id."""
        promise = self._all.get(id)
        if promise is None:
            promise = self._all[id] = Promise(id=id, group=group)
        return promise

    def find(self, id: str) -> Promise | None:
        """The promise of that id, if it is known."""
        return self._all.get(id)

    def settle(self, promise: Promise, outcome: Outcome) -> None:
        """Give a promise its result and tell those who poll its group."""
        promise.settle(outcome)
        if promise.group in self._logs and self._all.get(promise.id) is promise:
            self._logs[promise.group].add(promise.id, outcome)

    def mark_read(self, promise: Promise) -> None:
        """The result was sent; it is kept for a client that did not get it, up to the limit."""
        promise.read = True
        size = len(promise.outcome.body) if promise.outcome is not None else 0
        self._read_bytes += size - self._read.get(promise.id, 0)
        self._read[promise.id] = size
        self._read.move_to_end(promise.id)
        while len(self._read) > self._kept or self._read_bytes > self._kept_bytes:
            self.forget([next(iter(self._read))])

    def forget(self, ids: Iterable[str]) -> None:
        """Drop promises, read or not."""
        for id in ids:
            self._all.pop(id, None)
            self._read_bytes -= self._read.pop(id, 0)

    def forget_prefix(self, prefix: str) -> None:
        """Drop promises and logs whose names start with ``prefix``."""
        self.forget([id for id in self._all if id.startswith(prefix)])
        for group in [group for group in self._logs if group.startswith(prefix)]:
            del self._logs[group]

    def forget_settled(self, chosen: Callable[[str], bool]) -> None:
        """Drop promises that have their results, read or not, and whose ids are ``chosen``."""
        self.forget([id for id, p in self._all.items() if p.outcome is not None and chosen(id)])

    async def wait(self, promise: Promise, timeout_s: float) -> Outcome | None:
        """The result as soon as it is there, or None after ``timeout_s`` seconds."""
        if promise.outcome is None:
            try:
                await asyncio.wait_for(promise.done.wait(), timeout_s)
            except TimeoutError:
                return None
        return promise.outcome

    async def completions(
        self, group: str, cursor: int, timeout_s: float
    ) -> tuple[list[dict[str, Any]], int]:
        """What came to an end in ``group`` after ``cursor``, and the new cursor; waits for the first one.

        Endings are noted from the first question on; it is told those that are known then.
        """
        log = self._logs.get(group)
        if log is None:
            log = self._logs[group] = CompletionLog()
            for promise in self._all.values():
                if promise.group == group and promise.outcome is not None:
                    log.add(promise.id, promise.outcome)
        return await log.after(cursor, timeout_s)


class CompletionLog:
    """Endings of one group's promises, numbered from 1; what a poller has seen is forgotten."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._last = 0
        self._changed = asyncio.Event()

    def add(self, id: str, outcome: Outcome) -> None:
        """Note an ending."""
        self._last += 1
        entry: dict[str, Any] = {
            "state": "failed" if outcome.form == "error" else "finished",
            "request_id": id,
        }
        if outcome.form != "error":
            entry["response_payload_uncompressed_size"] = len(outcome.body)
        self._entries[self._last] = entry
        self._changed.set()

    async def after(self, cursor: int, timeout_s: float) -> tuple[list[dict[str, Any]], int]:
        """Endings after ``cursor``; one that is ahead of this log is of a server that is no more, and counts as 0."""
        if cursor > self._last:
            cursor = 0
        for number in [number for number in self._entries if number <= cursor]:
            del self._entries[number]
        if not self._entries and timeout_s > 0:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), timeout_s)
            except TimeoutError:
                return [], max(cursor, 0)
        found = [entry for number, entry in self._entries.items() if number > cursor]
        return found, max(cursor, self._last if found else cursor)
