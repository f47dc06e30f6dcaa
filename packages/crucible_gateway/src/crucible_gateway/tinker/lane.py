"""One model's training requests, strictly in the order of their numbers, and the state that a restart goes on from.

A request is kept on disk before its promise is given. Every so many optimiser steps the model's state is written, and
the requests it covers go. After a restart the newest state is loaded and the requests after it are done again, so that
no step is lost and none is taken twice; on an engine that is deterministic the result is the same bit for bit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from crucible_gateway.tinker.checkpoints import model_folder, saved_ref
from crucible_gateway.tinker.overload import Backlog
from crucible_gateway.tinker.promises import Outcome, Promise, Promises, failure
from crucible_gateway.tinker.settings import Limits
from crucible_gateway.tinker.store import Kept, Request, StateStore
from crucible_ir import CheckpointRef, ConfigError, CrucibleError
from crucible_train.ports import TrainingClient

__all__ = ["Lane", "LaneContext", "Started", "Window", "remove_strays"]

_LOG = logging.getLogger(__name__)
_COVER_REQUESTS = 256
"""Requests after which they are let go even without an optimiser step, as of a client that only asks ``forward``."""
_KEPT_RESULTS = 4096
"""Results before a written state that a restart still knows, where nobody has read them for long."""
_LARGE = 256 * 1024


@dataclass(slots=True)
class Window:
    """What has happened since gradients were last used: successful and failed calls, and which failed first."""

    calls: int = 0
    failed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Work that the engine has. ``finish`` waits for it; ``changes`` says that the model's state is another then."""

    finish: Callable[[], Awaitable[Outcome]]
    changes: bool = False
    steps: int = 0
    replaces: bool = False
    """The state came from elsewhere, and doing the request again may not find it: it is written at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneContext:
    """What a lane needs of its server."""

    store: StateStore
    promises: Promises
    backlog: Backlog
    limits: Limits
    open_client: Callable[[Mapping[str, Any]], Awaitable[TrainingClient]]
    start: Callable[[Lane, Request], Awaitable[Started]]


@dataclass(slots=True, eq=False)
class Lane:
    """The queue of one model. ``record`` is what is kept of the model (see ``ModelHost``)."""

    model_id: str
    record: dict[str, Any]
    context: LaneContext
    window: Window = field(default_factory=Window)
    client: TrainingClient | None = None
    _waiting: dict[int, Request] = field(default_factory=dict)
    _next: int = 1
    _covered: int = 0
    _steps: int = 0
    _changed: bool = False
    _snapshot_now: bool = False
    _written_at: float = 0.0
    _writing_s: float = 0.0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _running: list[asyncio.Task[None]] = field(default_factory=list)
    _pump: asyncio.Task[None] | None = None
    _closing: bool = False
    _arriving: int = 0

    @classmethod
    def restored(cls, model_id: str, record: dict[str, Any], context: LaneContext) -> Lane:
        """The lane of a model that the store knows: results that were not read, requests that no state covers."""
        lane = cls(model_id=model_id, record=record, context=context)
        lane._covered = int(record.get("covered", 0))
        lane._next = lane._covered + 1
        for kept in context.store.results(model_id):
            promise = context.promises.open(lane.promise_id(kept.seq))
            context.promises.settle(promise, Outcome(form=kept.form, body=kept.body))
        for request in context.store.requests(model_id):
            context.promises.open(lane.promise_id(request.seq))
            lane._enqueue(request)
        return lane

    @property
    def session_id(self) -> str:
        """The session that the model belongs to."""
        return str(self.record["session_id"])

    @property
    def waiting(self) -> int:
        """Requests that have come and not begun."""
        return len(self._waiting)

    def promise_id(self, seq: int) -> str:
        """The id of the promise of request ``seq``; the same after a restart."""
        return f"{self.model_id}:{seq}"

    async def offer(self, request: Request) -> Promise:
        """Take a request, or know it again; it is kept on disk when this returns.

        A request without a number (0) comes after all that are known.

        Raises:
            ConfigError: the number is none that a client counts to.
            OverloadedError: too much waits; never for the request that the others wait for.
            StorageError: it cannot be kept.
        """
        if not 0 <= request.seq < 2**31:
            raise ConfigError(
                what=f"a request with the number {request.seq}", where="seq_id", remedy="count from 1"
            )
        if request.seq == 0:
            last = max(self._waiting, default=self._next - 1)
            request = Request(
                seq=last + 1, operation=request.operation, media=request.media, body=request.body
            )
        id = self.promise_id(request.seq)
        promises = self.context.promises
        if request.seq < self._next or request.seq in self._waiting or promises.find(id):
            return promises.find(id) or Promise(id=id)
        if request.seq != self._next:
            self.context.backlog.admit_request(len(self._waiting), len(request.body))
        promise = promises.open(id)
        self._arriving += 1
        try:
            if len(request.body) > _LARGE:
                await asyncio.to_thread(self.context.store.accept, self.model_id, request)
            else:
                self.context.store.accept(self.model_id, request)
        except BaseException:
            promises.forget([id])
            raise
        finally:
            self._arriving -= 1
        self._enqueue(request)
        return promise

    def begin(self) -> None:
        """Start working through the queue."""
        if self._pump is None:
            self._pump = asyncio.create_task(self._work(), name=f"lane {self.model_id}")

    async def settle(self) -> None:
        """Wait for all work that the engine has of this model."""
        while self._running:
            await asyncio.wait(self._running)

    async def close(self, *, keep: bool) -> None:
        """End the lane and free the client; with ``keep``, write the state first where gradients do not wait."""
        pump, self._pump = self._pump, None
        self._closing = True
        self._wake.set()
        if pump is not None:
            await pump
        while self._arriving:
            await asyncio.sleep(0.001)
        await self.settle()
        try:
            if keep and self.client is not None and self.window.calls == 0:
                await self._cover()
        finally:
            for request in self._waiting.values():
                self._count(request, -1)
            client, self.client = self.client, None
            if client is not None:
                await client.close()

    def busy(self) -> bool:
        """Whether there is something that the lane could do now."""
        return bool(self._running) or bool(self._arriving) or self._next in self._waiting

    async def snapshot(self, client: TrainingClient) -> CheckpointRef:
        """The model's present state on disk under a name of its own."""
        return await client.save_state(f"snapshot-{uuid4().hex[:12]}")

    async def clear_gradients(self) -> None:
        """Drop gradients that no step may use: by going back to the very state that is."""
        if self.client is None:
            return
        ref = await self.snapshot(self.client)
        await self.client.load_state(ref, with_optimizer=True)
        await asyncio.to_thread(shutil.rmtree, ref.path, ignore_errors=True)

    def _enqueue(self, request: Request) -> None:
        self._waiting[request.seq] = request
        self._count(request, 1)
        self._wake.set()

    def _count(self, request: Request, sign: int) -> None:
        self.context.backlog.requests += sign
        self.context.backlog.bytes += sign * len(request.body)

    async def _work(self) -> None:
        while not self._closing:
            request = self._waiting.get(self._next)
            if request is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            if len(self._running) >= self.context.limits.in_flight:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                continue
            await self._take(request)
            if self._due():
                await self.settle()
                await self._try_cover()

    async def _take(self, request: Request) -> None:
        """Hand one request to the engine and follow it in a task of its own."""
        promise = self.context.promises.open(self.promise_id(request.seq))
        window, started = self.window, None
        try:
            if self.client is None:
                self.client = await self.context.open_client(self.record)
            if promise.outcome is not None and promise.outcome.form == "error":
                await self._fail_again(request)
            else:
                started = await self.context.start(self, request)
        except Exception as error:  # noqa: BLE001 - one request's bug must not end the lane of a model
            self._fail(request, promise, error, window)
        del self._waiting[request.seq]
        self._count(request, -1)
        self._next = request.seq + 1
        if started is not None:
            self._steps += started.steps
            self._changed = self._changed or started.changes
            self._snapshot_now = self._snapshot_now or started.replaces
            task = asyncio.create_task(self._follow(request, promise, started, window))
            self._running.append(task)
            task.add_done_callback(self._running.remove)

    async def _follow(self, request: Request, promise: Promise, started: Started, window: Window) -> None:
        try:
            outcome = await started.finish()
        except Exception as error:  # noqa: BLE001 - whatever the engine raises is the promise's result
            self._fail(request, promise, error, window)
        else:
            self.context.promises.settle(promise, outcome)

    def _fail(self, request: Request, promise: Promise, error: Exception, window: Window) -> None:
        """Tell a failure, once it is kept: a restart must not make a success of what was told as a failure.

        ``window`` is the one in which the request began: steps of later ones have all their gradients.
        """
        _note_failure(request, window)
        outcome = failure(error)
        if promise.outcome is None:
            kept = Kept(seq=request.seq, form=outcome.form, body=outcome.body)
            with contextlib.suppress(CrucibleError):  # it is told all the same
                self.context.store.keep_result(self.model_id, kept)
        self.context.promises.settle(promise, outcome)

    async def _fail_again(self, request: Request) -> None:
        """Leave the model as the failure of this request left it before the restart."""
        _note_failure(request, self.window)
        if request.operation == "optim_step":
            window, self.window = self.window, Window()
            if window.calls:
                await self.settle()
                await self.clear_gradients()

    def _due(self) -> bool:
        if self.window.calls:
            return False
        if self._snapshot_now or self._next - 1 - self._covered >= _COVER_REQUESTS:
            return True
        limits = self.context.limits
        rested = asyncio.get_running_loop().time() - self._written_at
        return self._steps >= limits.snapshot_steps and rested >= limits.snapshot_rest * self._writing_s

    async def _try_cover(self) -> None:
        """A state that cannot be written now is tried again later; the requests are still there."""
        try:
            await self._cover()
        except Exception:  # noqa: BLE001 - whatever it is, the queue of the model goes on
            _LOG.exception("the state of %s was not written; it is tried again later", self.model_id)
            self._steps = 0

    async def _cover(self) -> None:
        """Write the state after all that was done, and let go of the requests up to there."""
        done = self._next - 1
        if done == self._covered and not self._snapshot_now:
            return
        clock = asyncio.get_running_loop().time
        begun = clock()
        before, now = self.record.get("snapshot"), None
        if self.client is not None and (self._changed or self._snapshot_now):
            now = (await self.snapshot(self.client)).model_dump(mode="json")
        changed = {"covered": done, "snapshot": now or before}
        kept = []
        for seq in range(max(1, done - _KEPT_RESULTS), done + 1):
            promise = self.context.promises.find(self.promise_id(seq))
            if promise is not None and promise.outcome is not None:
                kept.append(Kept(seq=seq, form=promise.outcome.form, body=promise.outcome.body))
        record = self.session_id, {**self.record, **changed}
        try:
            await asyncio.to_thread(self.context.store.cover, self.model_id, done, record, kept)
        except Exception:  # the record goes on naming the older state, and nothing names the new one
            await self._remove(now)
            raise
        self.record.update(changed)
        self._covered, self._steps, self._changed, self._snapshot_now = done, 0, False, False
        if now is not None:
            await self._remove(before)
        self._written_at = clock()
        self._writing_s = self._written_at - begun

    async def _remove(self, snapshot: Mapping[str, Any] | None) -> None:
        """Remove the files of a state that is no longer named."""
        if snapshot is not None:
            folder = saved_ref(self.context.store.folder, self.model_id, snapshot).path
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _note_failure(request: Request, window: Window) -> None:
    if request.operation == "forward_backward" and window.failed is None:
        window.failed = request.seq


def remove_strays(state: Path, model_id: str, known: set[str]) -> None:
    """Remove folders of a model that no record names: what a killed server left behind."""
    folder = model_folder(state, model_id)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in known:
            shutil.rmtree(path, ignore_errors=True)
