"""A handle gives the same result to plain and to async code, and cancelling a waiter cancels no work."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from crucible_train.ports import Handle


def test_a_completed_handle_has_its_result_at_once() -> None:
    handle = Handle.completed(3)
    assert handle.done()
    assert handle.result() == 3


def test_a_handle_can_be_awaited_before_and_after_the_work_is_done() -> None:
    async def both() -> tuple[int, int]:
        future: Future[int] = Future()
        handle = Handle(future)
        asyncio.get_running_loop().call_soon(future.set_result, 5)
        return await handle, await handle

    assert asyncio.run(both()) == (5, 5)


def test_a_handle_raises_what_the_work_raised() -> None:
    future: Future[int] = Future()
    future.set_exception(ValueError("no"))
    handle = Handle(future)
    with pytest.raises(ValueError, match="no"):
        handle.result()

    async def waiting() -> int:
        return await handle

    with pytest.raises(ValueError, match="no"):
        asyncio.run(waiting())


def test_waiting_ends_after_the_given_time() -> None:
    with pytest.raises(TimeoutError):
        Handle(Future[int]()).result(timeout_s=0)


def test_cancelling_the_task_that_waits_does_not_cancel_the_work() -> None:
    async def cancelled() -> Future[int]:
        future: Future[int] = Future()
        handle = Handle(future)

        async def wait() -> int:
            return await handle

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return future

    future = asyncio.run(cancelled())
    assert not future.cancelled()
    future.set_result(1)
    assert Handle(future).result() == 1
