"""Endpoints of training runs and their checkpoints: lists, deletion, expiry, copies, and files to fetch."""

from __future__ import annotations

import asyncio
import secrets
import tarfile
import tempfile
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from starlette.background import BackgroundTask
from starlette.responses import FileResponse

from crucible_gateway.tinker.access import LinkSigner
from crucible_gateway.tinker.bodies import CopyWeights
from crucible_gateway.tinker.checkpoints import KINDS, parse_path, tinker_path
from crucible_gateway.tinker.http import json_response
from crucible_gateway.tinker.routes_work import parsed, service_of
from crucible_gateway.tinker.service import TinkerService
from crucible_ir import CheckpointRef, ConfigError, Contract, NotFoundError

__all__ = ["checkpoint_routes", "described_run"]

_LINK_S = 3600
_ARCHIVE = "archive.tar.gz"


class _PathBody(Contract):
    """A checkpoint that a question is about."""

    tinker_path: str


class _TtlBody(Contract):
    """How long a checkpoint lives from now; None is for ever."""

    ttl_seconds: int | None = None


def described_run(service: TinkerService, model_id: str) -> dict[str, Any]:
    """A training run as the SDK reads it."""
    record = service.model(model_id)
    listed = service.checkpoints.listed(model_id)
    last = {item["checkpoint_type"]: item for item in listed}
    return {
        "training_run_id": model_id,
        "base_model": record["base_model"],
        "model_owner": service.settings.owner,
        "is_lora": record["lora"] is not None,
        "lora_rank": record["lora"] and record["lora"]["rank"],
        "corrupted": False,
        "last_request_time": record["last_request"],
        "last_checkpoint": last.get("training"),
        "last_sampler_checkpoint": last.get("sampler"),
        "user_metadata": _texts(record["user_metadata"]),
    }


async def training_runs(request: Request, limit: int = 20, offset: int = 0) -> Response:
    """All training runs, the newest first."""
    service = service_of(request)
    ids = service.model_ids()[::-1]
    runs = [described_run(service, id) for id in ids[offset : offset + limit]]
    cursor = {"offset": offset, "limit": limit, "total_count": len(ids)}
    return json_response({"training_runs": runs, "cursor": cursor})


async def training_run(request: Request, run_id: str) -> Response:
    """One training run."""
    return json_response(described_run(service_of(request), run_id))


async def run_checkpoints(request: Request, run_id: str) -> Response:
    """The checkpoints of one run."""
    service = service_of(request)
    service.model(run_id)
    return json_response({"checkpoints": service.checkpoints.listed(run_id), "cursor": None})


async def all_checkpoints(request: Request, limit: int = 100, offset: int = 0) -> Response:
    """The checkpoints of all runs, the newest first."""
    listed = service_of(request).checkpoints.listed()[::-1]
    cursor = {"offset": offset, "limit": limit, "total_count": len(listed)}
    return json_response({"checkpoints": listed[offset : offset + limit], "cursor": cursor})


async def delete_checkpoint(request: Request, run_id: str, segment: str, name: str) -> Response:
    """Remove a checkpoint."""
    await service_of(request).checkpoints.delete(_path(run_id, segment, name))
    return Response(status_code=204)


async def publish(request: Request, run_id: str, segment: str, name: str) -> Response:
    """Mark a checkpoint as public, or with DELETE as private; a server of one owner shows it to the same people."""
    public = request.method == "POST"
    service_of(request).checkpoints.change(_path(run_id, segment, name), public=public)
    return Response(status_code=204)


async def set_ttl(request: Request, run_id: str, segment: str, name: str) -> Response:
    """Let a checkpoint expire some time from now, or never."""
    checkpoints = service_of(request).checkpoints
    body = await parsed(request, _TtlBody)
    checkpoints.change(_path(run_id, segment, name), expires=checkpoints.expiry(body.ttl_seconds))
    return Response(status_code=204)


async def weights_info(request: Request) -> Response:
    """What a checkpoint belongs to."""
    body = await parsed(request, _PathBody)
    entry = service_of(request).checkpoints.find(body.tinker_path)
    lora = entry["lora"] or {}
    return json_response(
        {
            "base_model": entry["base_model"],
            "optimizer_config": {"type": "adamw"},
            "is_lora": bool(lora),
            "lora_rank": lora.get("rank"),
            "train_unembed": lora.get("train_unembed"),
            "train_mlp": lora.get("train_mlp"),
            "train_attn": lora.get("train_attn"),
        }
    )


async def copy_weights(request: Request) -> Response:
    """A copy of a checkpoint under another run."""
    service = service_of(request)
    body = await parsed(request, CopyWeights)
    if body.session_id is not None and body.model_seq_id is not None:
        service.sessions.touch(body.session_id)
        target = f"{body.session_id}:train:{body.model_seq_id}"
    else:
        target = f"copies-{secrets.token_hex(4)}:train:0"
    path = await service.checkpoints.copy(body.source_path, target, ttl_seconds=body.ttl_seconds)
    return json_response({"tinker_path": path})


async def external_urls(request: Request, run_id: str, segment: str, name: str) -> Response:
    """Links to the files of exported weights; they need no key and expire."""
    service = service_of(request)
    path = _path(run_id, segment, name)
    folder = Path(service.checkpoints.ref(path).path)
    if parse_path(path)[1] != "external":
        raise ConfigError(
            what=f"{path} is no export", where="path", remedy="save one with save_weights_external"
        )
    expires = service.clock() + timedelta(seconds=_LINK_S)
    files = await asyncio.to_thread(_files, folder)
    urls = {file: _link(request, path, file, expires) for file in files}
    return json_response({"urls": urls, "expires": expires.isoformat()})


async def archive(request: Request, run_id: str, segment: str, name: str) -> Response:
    """A link, as a redirection, to an archive that ``peft`` or ``transformers`` loads once unpacked."""
    path = _path(run_id, segment, name)
    service_of(request).checkpoints.find(path)
    expires = service_of(request).clock() + timedelta(seconds=_LINK_S)
    headers = {
        "Location": _link(request, path, _ARCHIVE, expires),
        "Expires": format_datetime(expires, usegmt=True),
    }
    return Response(status_code=302, headers=headers)


async def download(request: Request, path: str, file: str, expires: str, signature: str) -> Response:
    """A file that a link names."""
    service = service_of(request)
    if not _signer(service).valid(signature, path, file, expires):
        return json_response({"error": "the link is not one of this server", "category": "user"}, 403)
    if datetime.fromisoformat(expires) <= service.clock():
        return json_response({"error": "the link has expired", "category": "user"}, 403)
    entry, ref = service.checkpoints.find(path), service.checkpoints.ref(path)
    if file != _ARCHIVE:
        return FileResponse(Path(ref.path) / file, filename=Path(file).name)
    scratch = tempfile.TemporaryDirectory(prefix="crucible-archive-")
    packed = await asyncio.to_thread(_packed, service, entry, ref, Path(scratch.name))
    name = f"{path.rpartition('/')[2]}.tar.gz"
    return FileResponse(packed, filename=name, background=BackgroundTask(scratch.cleanup))


def checkpoint_routes() -> APIRouter:
    """All endpoints of this file."""
    router = APIRouter()
    one = "/training_runs/{run_id}/checkpoints/{segment}/{name}"
    routes: list[tuple[str, str, Any]] = [
        ("GET", "/training_runs", training_runs),
        ("GET", "/training_runs/{run_id}", training_run),
        ("GET", "/training_runs/{run_id}/checkpoints", run_checkpoints),
        ("GET", "/checkpoints", all_checkpoints),
        ("DELETE", one, delete_checkpoint),
        ("POST", f"{one}/publish", publish),
        ("DELETE", f"{one}/publish", publish),
        ("PUT", f"{one}/ttl", set_ttl),
        ("GET", f"{one}/external_weights_urls", external_urls),
        ("GET", f"{one}/archive", archive),
        ("GET", "/download", download),
        ("POST", "/weights_info", weights_info),
        ("POST", "/copy_weights", copy_weights),
    ]
    for method, path, endpoint in routes:
        router.add_api_route(path, endpoint, methods=[method], response_model=None)
    return router


def _path(run_id: str, segment: str, name: str) -> str:
    if segment not in KINDS:
        raise NotFoundError(
            what=f"there are no {segment!r}", where="checkpoint", remedy=f"one of {', '.join(KINDS)}"
        )
    return tinker_path(run_id, KINDS[segment], name)


def _signer(service: TinkerService) -> LinkSigner:
    return LinkSigner(service.store.fact("link_secret", secrets.token_hex(32)))


def _link(request: Request, path: str, file: str, expires: datetime) -> str:
    parts = {"path": path, "file": file, "expires": expires.isoformat()}
    signature = _signer(service_of(request)).sign(*parts.values())
    return f"{request.base_url}api/v1/download?{urlencode({**parts, 'signature': signature})}"


def _files(folder: Path) -> list[str]:
    """The files under ``folder``, by their paths in it."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _packed(service: TinkerService, entry: dict[str, Any], ref: CheckpointRef, scratch: Path) -> Path:
    """A checkpoint's weights as others load them, in one archive."""
    folder = Path(ref.path)
    if entry["kind"] != "external":
        folder = service.backend.export(ref, scratch / "weights", merge=entry["lora"] is None)
    target = scratch / _ARCHIVE
    with tarfile.open(target, "w:gz", compresslevel=1) as packed:
        for file in sorted(folder.rglob("*")):
            packed.add(file, arcname=str(file.relative_to(folder)), recursive=False)
    return target


def _texts(metadata: dict[str, Any] | None) -> dict[str, str] | None:
    """User metadata with values as text, which is what the SDK reads."""
    if metadata is None:
        return None
    return {key: value if isinstance(value, str) else str(value) for key, value in metadata.items()}
