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


def test_what_is_made_of_a_result_comes_when_the_result_does() -> None:
    future: Future[int] = Future()
    doubled = Handle(future).then(lambda value: value * 2)
    assert not doubled.done()
    future.set_result(4)
    assert doubled.result() == 8
    assert doubled.then(str).result() == "8"


def test_further_work_is_submitted_when_the_result_comes() -> None:
    first, second = Future[int](), Future[str]()
    begun: list[int] = []

    def begin(value: int) -> Handle[str]:
        begun.append(value)
        return Handle(second)

    handle = Handle(first).chain(begin)
    assert begun == []
    first.set_result(3)
    assert begun == [3]
    assert not handle.done()
    second.set_result("done")
    assert handle.result() == "done"


def test_an_error_anywhere_on_the_way_comes_from_the_last_handle() -> None:
    def broken(value: int) -> Handle[int]:
        raise ValueError(f"not {value}")

    failed: Future[int] = Future()
    failed.set_exception(KeyError("first"))
    with pytest.raises(KeyError):
        Handle(failed).then(str).result()
    with pytest.raises(KeyError):
        Handle(failed).chain(Handle.completed).result()
    with pytest.raises(ValueError, match="not 1"):
        Handle.completed(1).then(broken).result()
    with pytest.raises(ValueError, match="not 1"):
        Handle.completed(1).chain(broken).result()
    with pytest.raises(KeyError):
        Handle.completed(1).chain(lambda _: Handle(failed)).result()
