"""Endpoints of work: configuration of the client, sessions, models, training, sampling, and results."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from crucible_gateway.tinker.bodies import (
    CancelFuture,
    CreateModel,
    CreateSamplingSession,
    CreateSession,
    FinishSession,
    LoadWeights,
    ModelBody,
    PollTarget,
    RetrieveFuture,
    RetrieveFutures,
    Sample,
    SessionBody,
)
from crucible_gateway.tinker.codec import call_ids, output_to_json, sample_to_json
from crucible_gateway.tinker.http import body_of, json_response, read_body
from crucible_gateway.tinker.promises import Outcome, Promise
from crucible_gateway.tinker.sampling import group_of
from crucible_gateway.tinker.service import TinkerService
from crucible_gateway.tinker.store import Request as Kept
from crucible_gateway.tinker.training import PROTOBUF
from crucible_ir import ConfigError

__all__ = ["work_routes"]

_CONFIG = {
    "pjwt_auth_enabled": False,
    "use_pyqwest_transport": True,
    "parallel_fwdbwd_chunks": True,
    "proto_compress_fwdbwd": False,
    "custom_loss_server_side": False,
    "sample_use_retrieve_futures": False,  # one question per sample survives a restart: it is told 410 and asks anew
    "sample_join_sampling_session": True,
}
_CHUNK_BYTES = 16 * 1024 * 1024
_JSON_OPERATIONS = ("optim_step", "save_weights", "save_weights_for_sampler", "save_weights_external")


def service_of(request: Request) -> TinkerService:
    """The service of the application."""
    service: TinkerService = request.app.state.service
    return service


async def parsed(request: Request, kind: type[Any]) -> Any:
    """The body of a request as ``kind``."""
    return await body_of(request, kind, service_of(request).settings.limits.body_bytes)


def promised(promise: Promise, **more: Any) -> Response:
    """The answer to a request whose result comes later."""
    return json_response({"request_id": promise.id, **more})


async def client_config(request: Request) -> Response:
    """Switches of the client: what this server can do, and how large its requests may be."""
    limit = service_of(request).settings.limits.body_bytes
    return json_response({**_CONFIG, "fwdbwd_max_chunk_bytes_count": min(_CHUNK_BYTES, limit // 2)})


async def dynamic_config(_: Request) -> Response:
    """Switches that the client asks for again and again."""
    return json_response({"refresh_interval_sec": 300, "sample_cancel_enabled": True})


async def healthz(_: Request) -> Response:
    """Whether the server is there; asks for no key."""
    return json_response({"status": "ok"})


async def telemetry(_: Request) -> Response:
    """What the client reports of itself goes nowhere."""
    return json_response({"status": "accepted"})


async def create_session(request: Request) -> Response:
    """A new session."""
    id = service_of(request).sessions.create(await parsed(request, CreateSession))
    return json_response({"type": "create_session", "session_id": id})


async def session_heartbeat(request: Request) -> Response:
    """A sign of life; 410 once the session has ended."""
    body = await parsed(request, SessionBody)
    service_of(request).sessions.touch(body.session_id)
    return json_response({"type": "session_heartbeat"})


async def finish_session(request: Request, session_id: str) -> Response:
    """The end of a session."""
    body = await parsed(request, FinishSession)
    await service_of(request).finish_session(session_id, body.reason.type, body.detail)
    return json_response({})


async def create_model(request: Request) -> Response:
    """A new model; the result tells its id."""
    body = await parsed(request, CreateModel)
    promise = service_of(request).create_model(body)
    return promised(promise, model_id=f"{body.session_id}:train:{body.model_seq_id}")


async def get_info(request: Request) -> Response:
    """What a model is."""
    service = service_of(request)
    body = await parsed(request, ModelBody)
    record = service.model(body.model_id)
    served = service.served(record["base_model"])
    data = {"arch": "unknown", "model_name": served.name, "tokenizer_id": served.tokenizer_id}
    return json_response(
        {
            "type": "get_info",
            "model_id": body.model_id,
            "model_data": data,
            "optimizer_config": {"type": "adamw"},
            "is_lora": record["lora"] is not None,
            "lora_rank": record["lora"] and record["lora"]["rank"],
            "model_name": served.name,
        }
    )


async def forward_backward(request: Request) -> Response:
    """A forward pass, and gradients unless the request says otherwise; protobuf, or JSON of older SDKs."""
    service = service_of(request)
    data = await read_body(request, service.settings.limits.body_bytes)
    media = request.headers.get("content-type", "application/json")
    operation = request.url.path.rpartition("/")[2]
    if media.startswith(PROTOBUF):
        model_id, seq = call_ids(data)
    else:
        model_id, seq = _json_ids(data)
    promise = await service.offer(model_id, Kept(seq=seq, operation=operation, media=media, body=data))
    return promised(promise, model_id=model_id)


async def training_request(request: Request) -> Response:
    """A request with a JSON body that waits in its model's queue."""
    service = service_of(request)
    data = await read_body(request, service.settings.limits.body_bytes)
    model_id, seq = _json_ids(data)
    operation = request.url.path.rpartition("/")[2]
    kept = Kept(seq=seq, operation=operation, media="application/json", body=data)
    return promised(await service.offer(model_id, kept), model_id=model_id)


async def load_weights(request: Request) -> Response:
    """Saved state into a model, in its turn; or a new model from it."""
    service = service_of(request)
    data = await read_body(request, service.settings.limits.body_bytes)
    body = LoadWeights.parse(data, strict=False)
    if body.model_id is None:
        promise = service.create_model_from(body)
        return promised(promise, model_id=f"{body.session_id}:train:{body.model_seq_id}")
    kept = Kept(seq=body.seq_id or 0, operation="load_weights", media="application/json", body=data)
    return promised(await service.offer(body.model_id, kept), model_id=body.model_id)


async def create_sampling_session(request: Request) -> Response:
    """A sampler over a base model or a checkpoint."""
    id = service_of(request).create_sampling_session(await parsed(request, CreateSamplingSession))
    return json_response({"type": "create_sampling_session", "sampling_session_id": id})


async def join_sampling_session(request: Request) -> Response:
    """A block of request numbers for another process that samples."""
    body = await parsed(request, PollTarget)
    clones = service_of(request).samplers.join(body.sampling_session_id)
    return json_response({"type": "join_sampling_session", "client_counter": clones})


async def asample(request: Request) -> Response:
    """Continuations of a prompt, or its log-probabilities."""
    body = await parsed(request, Sample)
    if body.sampling_session_id is None:
        raise ConfigError(
            what="no sampling session is named", where="sampling_session_id", remedy="create one first"
        )
    service = service_of(request)
    promise = service.sampling.submit(body.sampling_session_id, body)
    service.sessions.touch(body.sampling_session_id.partition(":")[0])
    ids = [f"{promise.id}:{index}" for index in range(body.num_samples)]
    return promised(promise, sample_sequence_ids=ids)


async def retrieve_future(request: Request) -> Response:
    """The result of a promise; held open while there is none, then 408 so that the client asks again."""
    service = service_of(request)
    body = await parsed(request, RetrieveFuture)
    promise = service.promises.find(body.request_id)
    if promise is None:
        return json_response(
            {"error": f"nobody knows {body.request_id}; ask again for the work itself", "category": "server"},
            410,
        )
    outcome = await service.promises.wait(promise, service.settings.limits.poll_s)
    if outcome is None:
        waiting = {"type": "try_again", "request_id": body.request_id, "queue_state": "active"}
        return json_response(waiting, 408)
    service.promises.mark_read(promise)
    return _told(outcome, PROTOBUF in request.headers.get("accept", ""))


async def retrieve_futures(request: Request) -> Response:
    """What has come to an end for one process that samples, since its cursor."""
    service = service_of(request)
    body = await parsed(request, RetrieveFutures)
    service.samplers.find(body.target.sampling_session_id)
    service.promises.forget(body.retrieved_request_ids)
    limit = service.settings.limits.poll_s
    timeout = limit if body.timeout is None else min(max(body.timeout, 0.0), limit)
    group = group_of(body.target.sampling_session_id, body.target.cloned_sampler_id)
    completions, cursor = await service.promises.completions(group, body.prev_cursor, timeout)
    return json_response({"completions": completions, "cursor": cursor})


async def cancel_future(request: Request) -> Response:
    """Give up on samples."""
    body = await parsed(request, CancelFuture)
    for id in (*body.request_ids, *([body.request_id] if body.request_id else [])):
        service_of(request).sampling.cancel(id)
    return json_response({})


def work_routes() -> APIRouter:
    """All endpoints of this file."""
    router = APIRouter()
    posts: dict[str, Callable[..., Any]] = {
        "/client/config": client_config,
        "/client/dynamic_config": dynamic_config,
        "/telemetry": telemetry,
        "/create_session": create_session,
        "/session_heartbeat": session_heartbeat,
        "/sessions/{session_id}/finish": finish_session,
        "/create_model": create_model,
        "/get_info": get_info,
        "/forward_backward": forward_backward,
        "/forward": forward_backward,
        "/load_weights": load_weights,
        "/create_sampling_session": create_sampling_session,
        "/join_sampling_session": join_sampling_session,
        "/asample": asample,
        "/retrieve_future": retrieve_future,
        "/retrieve_futures": retrieve_futures,
        "/cancel_future": cancel_future,
        **{f"/{operation}": training_request for operation in _JSON_OPERATIONS},
    }
    for path, endpoint in posts.items():
        router.add_api_route(path, endpoint, methods=["POST"], response_model=None)
    router.add_api_route("/healthz", healthz, methods=["GET"], response_model=None)
    return router


def _json_ids(data: bytes) -> tuple[str, int]:
    """Model and number of a request; all else is read in its turn, so that a bad request still takes its turn."""
    try:
        body = json.loads(data)
        return str(body["model_id"]), int(body.get("seq_id") or 0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            what=f"no request of a model ({type(error).__name__}: {error})",
            where="model_id",
            remedy="send a JSON object with model_id and seq_id",
        ) from error


def _told(outcome: Outcome, protobuf: bool) -> Response:
    if outcome.form in ("output", "sample"):
        if protobuf:
            return Response(outcome.body, media_type=PROTOBUF)
        read = output_to_json if outcome.form == "output" else sample_to_json
        return json_response(read(outcome.body))
    return Response(outcome.body, media_type="application/json")
