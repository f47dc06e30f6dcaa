"""Turns of a loop over something that has no length: lazily, in order, with a bounded number pulled ahead."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any

import anyio

__all__ = ["each_item"]

_END = object()

Turn = Callable[[int, Any], Awaitable[bool]]
"""Does one turn and says whether the loop goes on."""


async def each_item(
    items: Iterable[Any] | AsyncIterable[Any], turn: Turn, *, first: int, prefetch: int
) -> None:
    """Await ``turn(index, item)`` for the items from ``first`` on, until it says no or they end.

    At most ``prefetch`` items wait in the queue; items before ``first`` are pulled and passed over. Whatever ends
    the loop, the source is closed, and an error of the turn or of the source comes out as itself: the
    source's after the turns of the items that came before it.
    """
    source = _Source(items, threaded=prefetch > 0)
    try:
        if prefetch:
            await _ahead(source, turn, first, prefetch)
        else:
            await _directly(source, turn, first)
    finally:
        with anyio.CancelScope(shield=True):
            await source.close()


async def _directly(source: _Source, turn: Turn, first: int) -> None:
    index = 0
    while (item := await source.pull()) is not _END:
        if index >= first and not await turn(index, item):
            return
        index += 1


async def _ahead(source: _Source, turn: Turn, first: int, prefetch: int) -> None:
    """A producer fills a queue while turns empty it."""
    send, receive = anyio.create_memory_object_stream[Any](prefetch)
    of_source: list[Exception] = []
    of_turn: list[Exception] = []

    async def produce() -> None:
        async with send:
            try:
                while (item := await source.pull()) is not _END:
                    await send.send(item)
            except Exception as error:  # noqa: BLE001 - raised below, outside the task group
                of_source.append(error)

    async with anyio.create_task_group() as group, receive:
        group.start_soon(produce)
        index = 0
        try:
            async for item in receive:
                if index >= first and not await turn(index, item):
                    break
                index += 1
        except Exception as error:  # noqa: BLE001 - raised below, outside the task group
            of_turn.append(error)
        group.cancel_scope.cancel()
    for failure in (*of_turn, *of_source):
        raise failure


class _Source:
    """Pulls one item after the other from a plain or an async iterable."""

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any], *, threaded: bool) -> None:
        self._items: Any = aiter(items) if isinstance(items, AsyncIterable) else iter(items)
        self._async = isinstance(items, AsyncIterable)
        self._threaded = threaded

    async def pull(self) -> Any:
        """The next item, or the end."""
        if self._async:
            return await anext(self._items, _END)
        if self._threaded:  # so that reading goes on beside the turn
            return await anyio.to_thread.run_sync(next, self._items, _END)
        return next(self._items, _END)

    async def close(self) -> None:
        """Let a generator clean up."""
        if self._async and hasattr(self._items, "aclose"):
            await self._items.aclose()
        elif hasattr(self._items, "close"):
            self._items.close()
