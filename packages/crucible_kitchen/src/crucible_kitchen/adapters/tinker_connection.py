"""A backend's one connection to the service: the key, the SDK's clients, and a thread on which work is followed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from crucible_ir.errors import AdapterError, ConfigError, ConflictError
from crucible_kitchen.adapters.tinker_errors import explained
from crucible_train.ports import Handle

if TYPE_CHECKING:
    from concurrent.futures import Future

    import tinker

__all__ = ["TESTED", "Connection", "require_sdk"]

T = TypeVar("T")

TESTED = "0.38."
"""Versions of the SDK that the adapter is tested with begin with this."""
_TELEMETRY = "TINKER_TELEMETRY"
_PREFIXES = ("tml-", "eyJ")
_LEAVE_S = 30.0
_environment = threading.Lock()


def require_sdk() -> None:
    """Look whether the SDK is one that the adapter knows.

    Raises:
        AdapterError: another version, whose wire may differ.
    """
    import tinker

    if not tinker.__version__.startswith(TESTED):
        raise AdapterError(
            what=f"tinker {tinker.__version__} is installed; the adapter is tested with {TESTED}*",
            where="crucible.training_backend",
            remedy="pip install 'crucible-kitchen[tinker]'",
        )


class Connection:
    """Opens the SDK's session when it is first needed and ends it once.

    The SDK has an event loop of its own; this has another, so that waiting, retries and conversion hold up neither the
    SDK's heartbeat nor the caller's loop.
    """

    def __init__(
        self, *, api_key: str | None, base_url: str | None, project: str | None, telemetry: bool
    ) -> None:
        self._api_key = _usable(api_key)
        self._base_url = base_url
        self._project = project
        self._telemetry = telemetry
        self._lock = threading.Lock()
        self._service: tinker.ServiceClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def send(self, work: Coroutine[Any, Any, T]) -> Handle[T]:
        """Begin ``work`` on this connection's thread; works begin in the order in which they were sent."""
        return Handle(self.follow(work))

    def follow(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """As ``send``, as a plain future.

        Raises:
            ConflictError: the connection is closed.
        """
        try:
            loop = self._running()
        except ConflictError:
            work.close()
            raise
        return asyncio.run_coroutine_threadsafe(work, loop)

    def rest(self, call: Callable[[tinker.RestClient], Any], *, where: str) -> Any:
        """The result of a future of the client that needs no session; waits for it.

        Raises:
            CrucibleError: the call failed, in our words.
        """
        import tinker

        try:
            with self._choice():
                future = call(tinker.RestClient(base_url=self._base_url, api_key=self._api_key))
            return future.future().result()
        except Exception as error:
            raise explained(error, where=where, idempotent=True) from error

    async def ask(self, call: Callable[[tinker.ServiceClient], Any], *, where: str, idempotent: bool) -> Any:
        """The result of a future of the session's client; opens the session if need be.

        Raises:
            CrucibleError: the call failed, in our words.
        """
        try:
            future = await asyncio.to_thread(self._begin, call)
            return await asyncio.wrap_future(future.future())
        except Exception as error:
            raise explained(error, where=where, idempotent=idempotent) from error

    async def close(self) -> None:
        """Give up on what is still under way, end the session and the thread; closing twice is harmless.

        A service that does not take leave in time ends the session by itself, when no more heartbeats come.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            service, loop, thread = self._service, self._loop, self._thread
        if loop is not None and thread is not None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_give_up(), loop))
        try:
            if service is not None:
                await asyncio.wait_for(asyncio.wrap_future(service.close("success").future()), _LEAVE_S)
        except TimeoutError:
            pass
        except Exception as error:
            raise explained(error, where="end of the session", idempotent=True) from error
        finally:
            if loop is not None and thread is not None:
                loop.call_soon_threadsafe(loop.stop)
                await asyncio.to_thread(thread.join)
                loop.close()

    def _begin(self, call: Callable[[tinker.ServiceClient], Any]) -> Any:
        import tinker

        with self._choice():
            with self._lock:
                self._require_open()
                if self._service is None:
                    self._service = tinker.ServiceClient(
                        project_id=self._project, base_url=self._base_url, api_key=self._api_key
                    )
            return call(self._service)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            self._require_open()
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="crucible-tinker", daemon=True
                )
                self._thread.start()
            return self._loop

    def _require_open(self) -> None:
        if self._closed:
            raise ConflictError(
                what="the connection is closed", where="tinker", remedy="make another backend"
            )

    @contextmanager
    def _choice(self) -> Iterator[None]:
        """The SDK asks the environment whether to send telemetry whenever it connects; no parameter says so."""
        if self._telemetry:
            yield
            return
        with _environment:
            before = os.environ.get(_TELEMETRY)
            os.environ[_TELEMETRY] = "0"
            try:
                yield
            finally:
                if before is None:
                    del os.environ[_TELEMETRY]
                else:
                    os.environ[_TELEMETRY] = before


async def _give_up() -> None:
    """Cancel every other task of the running loop, and wait until it is gone."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _usable(key: str | None) -> str:
    """The key itself; its value is in no message.

    Raises:
        ConfigError: there is none, or the SDK would not send it.
    """
    if not key:
        raise ConfigError(
            what="no key is given",
            where="training_backend.options.api_key",
            remedy='name the variable that holds it: api_key = { env = "TINKER_API_KEY" }',
        )
    if not key.startswith(_PREFIXES):
        raise ConfigError(
            what="the SDK sends no key like that",
            where="training_backend.options.api_key",
            remedy="a key begins with 'tml-'",
        )
    return key
