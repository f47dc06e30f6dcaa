"""What each training request asks of the engine: the one place that calls a training client."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

from crucible_gateway.tinker.bodies import LoadWeights, OptimStep, SaveSamplerWeights, SaveWeights
from crucible_gateway.tinker.checkpoints import CheckpointLibrary, Kind, model_folder
from crucible_gateway.tinker.codec import TrainingCall, call_from_json, call_from_proto, output_to_proto
from crucible_gateway.tinker.lane import Lane, Started
from crucible_gateway.tinker.metrics import Meters
from crucible_gateway.tinker.promises import Outcome, json_outcome
from crucible_gateway.tinker.samplers import SamplerPool
from crucible_gateway.tinker.settings import TinkerSettings
from crucible_gateway.tinker.store import Request
from crucible_ir import CheckpointRef, ConfigError, ConflictError, DataError, nearest
from crucible_train.ports import TrainingBackend, TrainingClient
from crucible_train.types import AdamParams

__all__ = ["PROTOBUF", "TrainingWork"]

PROTOBUF = "application/x-protobuf"


class TrainingWork:
    """Turns requests into calls of the port and their results into what the SDK reads."""

    def __init__(
        self,
        backend: TrainingBackend,
        settings: TinkerSettings,
        checkpoints: CheckpointLibrary,
        samplers: SamplerPool,
        meters: Meters,
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._checkpoints = checkpoints
        self._samplers = samplers
        self._meters = meters
        self._operations: dict[str, Callable[[Lane, TrainingClient, Request], Awaitable[Started]]] = {
            "forward_backward": self._forward_backward,
            "forward": self._forward_backward,
            "optim_step": self._optim_step,
            "save_weights": self._save_weights,
            "save_weights_for_sampler": self._save_sampler_weights,
            "save_weights_external": self._save_external,
            "load_weights": self._load_weights,
        }

    async def start(self, lane: Lane, request: Request) -> Started:
        """Begin one request of a model whose client is open; it is submitted to the engine when this returns.

        Raises:
            CrucibleError: it cannot be begun; the model is as it was.
        """
        if lane.client is None:
            raise ConflictError(what="the model is closed", where=lane.model_id, remedy="create another")
        return await self._operations[request.operation](lane, lane.client, request)

    async def _forward_backward(self, lane: Lane, client: TrainingClient, request: Request) -> Started:
        call = await asyncio.to_thread(_decoded, request)
        config = self._checked(call)
        if call.forward_only:
            handle = await asyncio.to_thread(client.forward, call.data, call.loss_fn, config)
        else:
            handle = await asyncio.to_thread(client.forward_backward, call.data, call.loss_fn, config)
            lane.window.calls += 1

        async def finish() -> Outcome:
            output = await handle
            self._meters.trained(call.tokens, forward_only=call.forward_only)
            return Outcome(form="output", body=await asyncio.to_thread(output_to_proto, output))

        return Started(finish=finish)

    async def _optim_step(self, lane: Lane, client: TrainingClient, request: Request) -> Started:
        body = OptimStep.parse(request.body, strict=False)
        params = _adam(body)
        if lane.window.calls > 1:  # one failed call among several would leave the gradients of the others
            await lane.settle()
        window, lane.window = lane.window, type(lane.window)()
        if window.failed is not None:
            if window.calls:
                await lane.settle()
                await lane.clear_gradients()
            raise ConflictError(
                what=f"request {window.failed} failed, so that its gradients are missing from this step",
                where="optim_step",
                remedy="send the whole batch again; no gradient of the failed one is left",
            )
        handle = client.optim_step(params)

        async def finish() -> Outcome:
            output = await handle
            self._meters.stepped()
            metrics = {name if ":" in name else f"{name}:mean": v for name, v in output.metrics.items()}
            return json_outcome({"metrics": metrics})

        return Started(finish=finish, changes=True, steps=1)

    async def _save_weights(self, lane: Lane, client: TrainingClient, request: Request) -> Started:
        body = SaveWeights.parse(request.body, strict=False)
        path = self._path(lane, request, "training", body.path, overwrite=body.overwrite)
        if isinstance(path, Started):
            return path
        expires = self._checkpoints.expiry(body.ttl_seconds)
        handle = client.save_state(_folder_name("weights"))

        async def finish() -> Outcome:
            ref = await handle
            await self._keep(lane, request, path, ref, expires, body.user_metadata)
            return json_outcome({"type": "save_weights", "path": path})

        return Started(finish=finish)

    async def _save_sampler_weights(self, lane: Lane, client: TrainingClient, request: Request) -> Started:
        body = SaveSamplerWeights.parse(request.body, strict=False)
        if body.path is None and body.sampling_session_seq_id is None:
            raise ConfigError(
                what="neither path nor sampling_session_seq_id is given",
                where="save_weights_for_sampler",
                remedy="give one of them",
            )
        if body.path is None:
            return self._unnamed_sampler(lane, client, body)
        path = self._path(lane, request, "sampler", body.path, overwrite=False)
        if isinstance(path, Started):
            return path
        expires = self._checkpoints.expiry(body.ttl_seconds)
        handle = client.save_weights_for_sampler(_folder_name("sampler"))

        async def finish() -> Outcome:
            ref = await handle
            await self._keep(lane, request, path, ref, expires, body.user_metadata)
            return json_outcome({"type": "save_weights_for_sampler", "path": path})

        return Started(finish=finish)

    def _unnamed_sampler(self, lane: Lane, client: TrainingClient, body: SaveSamplerWeights) -> Started:
        """Weights for one sampling session: open at once, and on disk so that a restart finds them."""
        id = f"{lane.session_id}:sample:{body.sampling_session_seq_id}"
        saved = client.save_weights_for_sampler(_folder_name("sampler"))
        opened = client.sampling_client()

        async def finish() -> Outcome:
            ref, sampler = await saved, await opened
            record = {
                "base_model": lane.record["base_model"],
                "model_id": lane.model_id,
                "ref": ref.model_dump(mode="json"),
                "inflight": body.kind == "inflight",
            }
            kept = self._settings.limits.kept_samplers
            await self._samplers.publish(id, record, sampler, kept=kept)
            return json_outcome({"type": "save_weights_for_sampler", "sampling_session_id": id})

        return Started(finish=finish)

    async def _save_external(self, lane: Lane, client: TrainingClient, request: Request) -> Started:
        body = SaveWeights.parse(request.body, strict=False)
        if body.age_encryption_recipients:
            raise ConfigError(
                what="this server does not encrypt exports",
                where="age_encryption_recipients",
                remedy="leave it out; the files stay on the server's disk",
            )
        path = self._path(lane, request, "external", body.path, overwrite=body.overwrite)
        if isinstance(path, Started):
            return path
        expires = self._checkpoints.expiry(body.ttl_seconds)
        handle = client.save_weights_for_sampler(_folder_name("sampler"))

        async def finish() -> Outcome:
            weights = await handle
            folder = model_folder(self._settings.state, lane.model_id) / _folder_name("external")
            merge = lane.record.get("lora") is None
            await asyncio.to_thread(self._backend.export, weights, folder, merge=merge)
            await asyncio.to_thread(shutil.rmtree, weights.path, ignore_errors=True)
            ref = CheckpointRef(id=folder.name, path=str(folder), content="sampler")
            await self._keep(lane, request, path, ref, expires, body.user_metadata)
            size = self._checkpoints.find(path)["size"]
            return json_outcome({"type": "save_weights_external", "path": path, "size_bytes": size})

        return Started(finish=finish)

    async def _load_weights(self, lane: Lane, client: TrainingClient, request: Request) -> Started:
        body = LoadWeights.parse(request.body, strict=False)
        ref = self._checkpoints.ref(body.path)
        await lane.settle()
        await client.load_state(ref, with_optimizer=body.optimizer)
        lane.window = type(lane.window)()

        async def finish() -> Outcome:
            return json_outcome({"type": "load_weights", "path": body.path, "model_id": lane.model_id})

        return Started(finish=finish, changes=True, replaces=True)

    def _checked(self, call: TrainingCall) -> Mapping[str, float]:
        """The loss's settings, once the call is one that the engine can do."""
        known = self._backend.capabilities().losses
        if call.loss_fn not in known:
            near = nearest(call.loss_fn, known)
            remedy = f"did you mean {near!r}?" if near else f"one of {', '.join(sorted(known))}"
            if call.loss_fn == "stable_reinforce":
                remedy = "it has no public formula; take importance_sampling, ppo or cispo"
            if call.loss_fn == "custom":
                remedy = "let the SDK compute the custom loss on the client's side"
            raise ConfigError(what=f"no loss {call.loss_fn!r}", where="loss_fn", remedy=remedy)
        if not call.data:
            raise DataError(what="a request without data", where="data", remedy="give one datum at least")
        texts = sorted(name for name, value in call.config.items() if isinstance(value, str))
        if texts:
            raise ConfigError(
                what=f"{texts[0]} is a text", where="loss_fn_config", remedy="losses take numbers alone"
            )
        return {name: float(value) for name, value in call.config.items()}

    def _path(
        self, lane: Lane, request: Request, kind: Kind, name: str | None, *, overwrite: bool
    ) -> str | Started:
        """The path to save under; or what is done already, when a restart repeats the request."""
        made = self._checkpoints.made_by(lane.model_id, request.seq)
        if made is None:
            return self._checkpoints.check_name(lane.model_id, kind, name, overwrite=overwrite)

        async def finish() -> Outcome:
            return json_outcome({"type": request.operation, "path": made})

        return Started(finish=finish)

    async def _keep(
        self,
        lane: Lane,
        request: Request,
        path: str,
        ref: CheckpointRef,
        expires: str | None,
        user_metadata: Mapping[str, Any] | None,
    ) -> None:
        kind: dict[str, Kind] = {
            "save_weights": "training",
            "save_weights_for_sampler": "sampler",
            "save_weights_external": "external",
        }
        await self._checkpoints.add(
            path,
            {
                "model_id": lane.model_id,
                "kind": kind[request.operation],
                "name": path.rpartition("/")[2],
                "seq": request.seq,
                "base_model": lane.record["base_model"],
                "lora": lane.record.get("lora"),
                "ref": ref.model_dump(mode="json"),
                "expires": expires,
                "user_metadata": user_metadata,
            },
        )


def _folder_name(kind: str) -> str:
    return f"{kind}-{uuid4().hex[:12]}"


def _decoded(request: Request) -> TrainingCall:
    if request.media.startswith(PROTOBUF):
        return call_from_proto(request.body)
    return call_from_json(json.loads(request.body), forward_only=request.operation == "forward")


def _adam(body: OptimStep) -> AdamParams:
    if body.params.type not in ("adamw", "adam"):
        raise ConfigError(
            what=f"the optimiser {body.params.type!r} is not served",
            where="optim_params",
            remedy="take AdamParams",
        )
    return AdamParams(**body.params.model_dump(exclude={"type"}))
