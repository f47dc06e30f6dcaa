"""Walks a plan: stages, loops, conditions, branches; retries, timeouts, cancellation, rollback."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import anyio

from crucible_ir import CancelledRun, ConfigError, CrucibleError, EventType, ServiceError
from crucible_kitchen.engine.context import StageContext, State, SuspendRun
from crucible_kitchen.engine.cursor import Cursor, Skip
from crucible_kitchen.engine.plan import (
    Plan,
    PlannedIf,
    PlannedLoop,
    PlannedNode,
    PlannedParallel,
    PlannedStage,
)
from crucible_kitchen.engine.scope import Outcome, RunScope
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.engine.streaming import each_item
from crucible_kitchen.engine.timing import StageTimes

__all__ = ["CANCEL_POLL_S", "describe", "execute"]

CANCEL_POLL_S = 0.25
"""How often a request to cancel is looked for while a stage runs."""


async def execute(plan: Plan, scope: RunScope) -> Outcome:
    """Run ``plan`` to its end, to a question, or to an error.

    Resources that stages opened are closed in reverse order, however the run ends. When a stage fails,
    stages that completed are rolled back in reverse order; a run that was cancelled, interrupted or
    suspended is not, so that it can be resumed.

    Raises:
        CancelledRun: somebody asked for it.
        CrucibleError: what the failing stage raised.
    """
    walk = _Walk(plan=plan, scope=scope)
    if scope.resume is not None:
        walk.state.values.update(scope.resume.state)
        walk.state.durable.update(scope.resume.state)
    async with _Resources() as resources:
        walk.resources = resources
        return await _cancellable(walk)


def describe(error: BaseException) -> str:
    """One line about an error: our own as they are, others with their type."""
    return str(error) if isinstance(error, CrucibleError) else f"{type(error).__name__}: {error}"


class _Resources(AsyncExitStack):
    """Closes what was opened to the end, also where the run was cancelled from outside (a signal).

    What fails while closing after an error is a note of that error, and does not hide it.
    """

    async def __aexit__(self, *raised: Any) -> bool | None:
        error: BaseException | None = raised[1]
        with anyio.CancelScope(shield=True):
            try:
                await super().__aexit__(*raised)
            except Exception as failure:
                if error is None or failure is error:
                    raise
                error.add_note(f"closing what the run had opened failed too: {describe(failure)}")
        return None


async def _cancellable(walk: _Walk) -> Outcome:
    """Run the walk beside a watcher that cancels it when the log says so."""
    outcome: list[Outcome] = []
    error: list[Exception] = []
    asked = False

    async def body(group: anyio.abc.TaskGroup) -> None:
        try:
            outcome.append(await walk.whole())
        except Exception as failure:  # noqa: BLE001 - the boundary: handed on below, outside the task group
            error.append(failure)
        finally:
            group.cancel_scope.cancel()

    async def watch(group: anyio.abc.TaskGroup) -> None:
        nonlocal asked
        try:
            while not asked:
                await anyio.sleep(CANCEL_POLL_S)
                asked = walk.scope.cancel_requested()
        except Exception as failure:  # noqa: BLE001 - as above: a log that cannot be read any more
            error.append(failure)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, group)
        group.start_soon(body, group)
    if error:
        raise error[0]
    if outcome:
        return outcome[0]
    if asked:
        raise CancelledRun(what="cancelled on request", where=walk.scope.run_id)
    raise CrucibleError(what="the run ended without an outcome", where=walk.scope.run_id)


@dataclass(slots=True)
class _Walk:
    plan: Plan
    scope: RunScope
    state: State = field(default_factory=State)
    resources: AsyncExitStack = field(default_factory=AsyncExitStack)
    completed: dict[str, tuple[PlannedStage, StageContext]] = field(default_factory=dict)
    times: StageTimes = field(default_factory=StageTimes)
    depth: int = 0

    async def whole(self) -> Outcome:
        """The whole pipeline; rolls back on failure."""
        cursor = self.scope.resume.cursor if self.scope.resume else None
        try:
            await self.sequence(self.plan.nodes, (), cursor)
        except SuspendRun as suspension:
            return Outcome(suspended=suspension.request)
        except CancelledRun:
            raise
        except Exception as error:
            await self._rollback(error)
            raise
        return Outcome(results=self.state.durable_values())

    async def sequence(self, nodes: Sequence[PlannedNode], base: Cursor, resume: Cursor | None) -> None:
        """``nodes`` in order, leaving out what lies behind ``resume`` but for setup stages."""
        skip = Skip(resume) if resume else None
        for position, node in enumerate(nodes):
            if skip and skip.passed(position):
                await self._set_up(node, (*base, position))
                continue
            await self._node(node, (*base, position), skip.within(position) if skip else None)

    async def _set_up(self, node: PlannedNode, at: Cursor) -> None:
        """Run the setup stages of a node that lies behind the cursor again, loops left out."""
        match node:
            case PlannedStage() if node.stage.setup:
                await self._stage(node, at)
            case PlannedIf() if node.node.when in self.state.values:
                taken = 0 if self.state.values[node.node.when] else 1
                for position, inner in enumerate(node.otherwise if taken else node.body):
                    await self._set_up(inner, (*at, taken, position))
            case PlannedParallel():
                for index, branch in enumerate(node.branches):
                    for position, inner in enumerate(branch):
                        await self._set_up(inner, (*at, index, position))

    async def _node(self, node: PlannedNode, at: Cursor, resume: Cursor | None) -> None:
        match node:
            case PlannedStage():
                await self._stage(node, at)
            case PlannedLoop():
                await self._loop(node, at, resume)
            case PlannedIf():
                taken = resume[0] if resume else (0 if self.state.values[node.node.when] else 1)
                branch = node.otherwise if taken else node.body
                await self.sequence(branch, (*at, taken), resume[1:] if resume else None)
            case PlannedParallel():
                await self._parallel(node, at)

    async def _loop(self, loop: PlannedLoop, at: Cursor, resume: Cursor | None) -> None:
        first = resume[0] if resume else 0
        rest = resume[1:] if resume else None

        async def turn(index: int, item: Any) -> bool:
            nonlocal rest
            self.state.values[f"{loop.node.name}_index"] = index
            self.state.values[f"{loop.node.name}_item"] = item
            inside, rest = rest, None
            await self.sequence(loop.body, (*at, index), inside)
            return loop.node.until is None or not self.state.values[loop.node.until]

        items = self._items(loop)
        self.depth += 1
        try:
            if isinstance(items, Sequence):
                for index in range(first, len(items)):
                    if not await turn(index, items[index]):
                        break
            else:
                await each_item(items, turn, first=first, prefetch=loop.node.prefetch or 0)
        finally:
            self.depth -= 1
            if self.depth == 0:
                self.times.report(self._emit)

    def _items(self, loop: PlannedLoop) -> Sequence[Any] | Iterable[Any] | AsyncIterable[Any]:
        value = self.state.values[loop.node.over]
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return range(value)
        if isinstance(value, Iterable | AsyncIterable) and not isinstance(value, str | bytes | Mapping):
            return value
        raise ConfigError(
            what=f"loop {loop.node.name!r} goes over {loop.node.over!r} = {value!r}",
            where=loop.node.name,
            remedy="let the stage that writes it give a count ≥ 0, a sequence or an iterable",
        )

    async def _parallel(self, node: PlannedParallel, at: Cursor) -> None:
        limit = anyio.CapacityLimiter(node.node.max_concurrency)
        failures: list[tuple[int, Exception]] = []

        async def branch(index: int, group: anyio.abc.TaskGroup) -> None:
            async with limit:
                try:
                    await self.sequence(node.branches[index], (*at, index), None)
                except Exception as error:  # noqa: BLE001 - raised again below, in the order of the branches
                    failures.append((index, error))
                    group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for index in range(len(node.branches)):
                group.start_soon(branch, index, group)
        if failures:
            raise min(failures, key=lambda failure: failure[0])[1]

    async def _stage(self, planned: PlannedStage, at: Cursor) -> None:
        if not planned.node.enabled:
            return
        if self.scope.cancel_requested():
            raise CancelledRun(what="cancelled on request", where=planned.label)
        context = StageContext(
            scope=self.scope,
            state=self.state,
            stage=planned.stage,
            label=planned.label,
            cursor=at,
            resources=self.resources,
            prepared=self.plan.prepared,
        )
        if type(planned.stage).rollback is not Stage.rollback:
            self.completed.pop(planned.path, None)
            self.completed[planned.path] = (planned, context)
        loud = self.depth == 0
        if loud:
            self._emit(EventType.STAGE_STARTED, {"stage": planned.node.name, "label": planned.label})
        started = self.scope.clock()
        try:
            await self._attempts(planned, context)
        except SuspendRun:
            raise
        except Exception as error:
            self._emit(EventType.STAGE_FAILED, {**self._facts(planned, started), "error": describe(error)})
            raise
        if loud:
            self._emit(EventType.STAGE_COMPLETED, self._facts(planned, started))
        else:
            self.times.add(planned, self.scope.clock() - started)

    async def _attempts(self, planned: PlannedStage, context: StageContext) -> None:
        policy, wait_s = planned.node.retry, planned.node.retry.wait_s
        for attempt in range(1, policy.attempts + 1):
            try:
                await self._once(planned, context)
                return
            except CrucibleError as error:
                if attempt == policy.attempts or not error.retryable:
                    raise
                asked = getattr(error, "retry_after_s", None)
                wait_s = wait_s if asked is None else asked
                self._emit(
                    EventType.STAGE_RETRIED,
                    {
                        "stage": planned.node.name,
                        "label": planned.label,
                        "attempt": attempt,
                        "wait_s": wait_s,
                        "error": str(error),
                    },
                )
            await anyio.sleep(wait_s)
            wait_s = policy.wait_s * policy.factor**attempt

    async def _once(self, planned: PlannedStage, context: StageContext) -> None:
        limit_s = planned.node.timeout_s
        if limit_s is None:
            await planned.stage.run(context)
            return
        with anyio.move_on_after(limit_s) as scope:
            await planned.stage.run(context)
        if scope.cancelled_caught:
            raise ServiceError(
                what=f"took longer than timeout_s = {limit_s:g}",
                where=planned.label,
                remedy="raise the stage's timeout_s, or look at what it waits for",
                retryable=True,
            )

    async def _rollback(self, error: Exception) -> None:
        for planned, context in reversed(self.completed.values()):
            outcome: dict[str, Any] = {"stage": planned.node.name, "label": planned.label}
            try:
                await planned.stage.rollback(context, error)
            except Exception as failure:  # noqa: BLE001 - the others are taken back too, then ``error`` is raised
                outcome["error"] = describe(failure)
            self._emit(EventType.STAGE_ROLLED_BACK, outcome)

    def _facts(self, planned: PlannedStage, started: float) -> dict[str, Any]:
        return {
            "stage": planned.node.name,
            "label": planned.label,
            "duration_s": round(self.scope.clock() - started, 6),
        }

    def _emit(self, event: EventType | str, data: dict[str, Any]) -> None:
        self.scope.emit(str(event), data)
        for listener in self.scope.listeners:
            listener(str(event), data)
