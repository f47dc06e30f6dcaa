"""The Tinker-compatible server as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

from fastapi import FastAPI

from crucible_gateway.tinker.access import KeyCheck
from crucible_gateway.tinker.http import Gate, add_error_answers
from crucible_gateway.tinker.metrics import Meters
from crucible_gateway.tinker.routes_account import account_routes
from crucible_gateway.tinker.routes_checkpoints import checkpoint_routes
from crucible_gateway.tinker.routes_work import work_routes
from crucible_gateway.tinker.service import TinkerService
from crucible_gateway.tinker.settings import TinkerSettings
from crucible_train.ports import TrainingBackend

__all__ = ["tinker_app"]

_LOG = logging.getLogger(__name__)
_TIDY_S = 30.0


def tinker_app(
    backend: TrainingBackend,
    settings: TinkerSettings,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    tidy_every_s: float = _TIDY_S,
) -> FastAPI:
    """An application that serves ``settings.models`` from ``backend``; ``app.state.service`` is what it works with.

    Nothing is loaded and no file is touched before the application starts. When it ends it finishes what the engine
    has, writes the state of every model, and closes the backend.
    """

    meters = Meters()

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service = TinkerService(backend, settings, clock=clock, meters=meters)
        app.state.service = service
        service.resume()
        keeper = asyncio.create_task(_keep_tidy(service, tidy_every_s))
        try:
            yield
        finally:
            keeper.cancel()
            await service.close()

    app = FastAPI(title="Crucible gateway", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    add_error_answers(app)
    app.add_middleware(Gate, key=KeyCheck(settings.api_key), hosts=settings.hosts, meters=meters)
    app.include_router(work_routes(), prefix="/api/v1")
    app.include_router(checkpoint_routes(), prefix="/api/v1")
    app.include_router(account_routes())
    return app


async def _keep_tidy(service: TinkerService, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            await service.tidy()
        except Exception:  # noqa: BLE001 - a full disk now need not be one the next time
            _LOG.exception("tidying failed; it is tried again in %g s", every_s)
