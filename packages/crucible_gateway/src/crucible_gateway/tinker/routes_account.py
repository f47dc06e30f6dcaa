"""Endpoints about the server and who is there: capabilities, sessions, samplers, status and metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from crucible_gateway.tinker.bodies import SearchSessions
from crucible_gateway.tinker.http import json_response
from crucible_gateway.tinker.routes_work import parsed, service_of
from crucible_gateway.tinker.service import TinkerService
from crucible_ir import Contract

__all__ = ["account_routes"]

_ENDED = {"success", "errored", "interrupted"}


class _ProjectBody(Contract):
    """Where a session belongs."""

    project_id: str


async def capabilities(request: Request) -> Response:
    """The base models that are served."""
    service = service_of(request)
    sampling = service.backend.capabilities().sampling
    models = [
        {
            "model_name": model.name,
            "max_context_length": model.max_length,
            "trainable": True,
            "sampleable": sampling,
        }
        for model in service.settings.models
    ]
    return json_response({"supported_models": models})


async def whoami(request: Request) -> Response:
    """The one owner of this server."""
    owner = service_of(request).settings.owner
    return json_response({"user_urn": f"urn:user:{owner}", "org_urn": "urn:org:local", "email": None})


async def sessions(request: Request, limit: int = 20, offset: int = 0) -> Response:
    """Ids of sessions, the newest first."""
    return json_response({"sessions": service_of(request).sessions.listed(limit, offset)})


async def session(request: Request, session_id: str) -> Response:
    """One session: its runs, its samplers and what was said of it."""
    service = service_of(request)
    record = service.sessions.find(session_id)
    return json_response(
        {
            "training_run_ids": service.model_ids(session_id),
            "sampler_ids": service.samplers.ids(session_id),
            "user_metadata": record.get("user_metadata"),
            "display_name": record.get("display_name"),
        }
    )


async def search_sessions(request: Request) -> Response:
    """Sessions that match."""
    service = service_of(request)
    found, cursor = service.sessions.search(await parsed(request, SearchSessions))
    return json_response(
        {"sessions": [_summary(service, id, record) for id, record in found], "next_cursor": cursor}
    )


async def set_project(request: Request, session_id: str) -> Response:
    """Put a session under a project; a name without further meaning here."""
    body = await parsed(request, _ProjectBody)
    service_of(request).sessions.change(session_id, project_id=body.project_id)
    return Response(status_code=204)


async def sampler(request: Request, sampler_id: str) -> Response:
    """What a sampler samples from."""
    record = service_of(request).samplers.find(sampler_id)
    return json_response(
        {
            "sampler_id": sampler_id,
            "base_model": record["base_model"],
            "model_path": record.get("model_path"),
        }
    )


async def status(request: Request) -> Response:
    """What there is now and how fast it goes, for ``crucible serve status``."""
    service = service_of(request)
    return json_response(
        {
            "backend": service.backend.capabilities().name,
            "models": [model.name for model in service.settings.models],
            **service.state(),
            "tokens_per_second": service.meters.rates(),
        }
    )


async def metrics(request: Request) -> Response:
    """Everything that is counted, as Prometheus reads it."""
    service = service_of(request)
    return Response(service.meters.exposition(service.state()), media_type="text/plain; version=0.0.4")


def account_routes() -> APIRouter:
    """All endpoints of this file."""
    router = APIRouter()
    routes: list[tuple[str, str, Any]] = [
        ("GET", "/api/v1/get_server_capabilities", capabilities),
        ("GET", "/api/v1/whoami", whoami),
        ("GET", "/api/v1/sessions", sessions),
        ("GET", "/api/v1/sessions/{session_id}", session),
        ("POST", "/api/v1/sessions/search", search_sessions),
        ("PUT", "/api/v1/sessions/{session_id}/project", set_project),
        ("GET", "/api/v1/samplers/{sampler_id}", sampler),
        ("GET", "/crucible/status", status),
        ("GET", "/metrics", metrics),
    ]
    for method, path, endpoint in routes:
        router.add_api_route(path, endpoint, methods=[method], response_model=None)
    return router


def _summary(service: TinkerService, id: str, record: dict[str, Any]) -> dict[str, Any]:
    runs = service.model_ids(id)
    listed = [item for run in runs for item in service.checkpoints.listed(run)]
    ended = record["status"] in _ENDED
    finished = {
        "type": "client_finished",
        "reason": {"type": record["status"]},
        "detail": record.get("detail"),
    }
    return {
        "session_id": id,
        "created_at": record["created"],
        "owner": service.settings.owner,
        "project_id": record.get("project_id") or "local",
        "status": finished if ended else {"type": "active"},
        "checkpoints_count": len(listed),
        "display_name": record.get("display_name"),
        "user_metadata": record.get("user_metadata"),
        "checkpoint_storage_bytes": sum(item["size_bytes"] or 0 for item in listed),
    }
