"""Async work from plain code, also where an event loop is running already (a notebook)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from anyio.from_thread import start_blocking_portal

__all__ = ["run_to_end"]

T = TypeVar("T")


def run_to_end(function: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """``anyio.run``; in a thread of its own where this one runs an event loop, which waits meanwhile.

    Ctrl-C cancels the work in either case.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return anyio.run(function, *arguments)
    with start_blocking_portal() as portal:
        return portal.start_task_soon(function, *arguments).result()
