"""The service behind the endpoints: sessions, models, samplers and results over one training backend."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crucible_gateway.tinker.bodies import CreateModel, CreateSamplingSession, LoadWeights
from crucible_gateway.tinker.checkpoints import CheckpointLibrary, model_folder, saved_ref
from crucible_gateway.tinker.lane import Lane, LaneContext, remove_strays
from crucible_gateway.tinker.metrics import Meters, resident_bytes
from crucible_gateway.tinker.model_record import lora_of, new_record, require_adam
from crucible_gateway.tinker.overload import Backlog
from crucible_gateway.tinker.promises import Promise, Promises, failure, json_outcome
from crucible_gateway.tinker.samplers import SamplerPool
from crucible_gateway.tinker.sampling import SamplingWork
from crucible_gateway.tinker.sessions import SessionBook
from crucible_gateway.tinker.settings import ServedModel, TinkerSettings
from crucible_gateway.tinker.store import Request, StateStore
from crucible_gateway.tinker.training import TrainingWork
from crucible_ir import ConfigError, NotFoundError, nearest
from crucible_train.ports import TrainingBackend, TrainingClient, TrainingSpec

__all__ = ["TinkerService"]

_LOG = logging.getLogger(__name__)


class TinkerService:
    """One server's work. Everything but ``close`` is called on one event loop."""

    def __init__(
        self,
        backend: TrainingBackend,
        settings: TinkerSettings,
        *,
        meters: Meters,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.backend = backend
        self.settings = settings
        self.clock = clock
        self.meters = meters
        self.store = StateStore(settings.state)
        self.sessions = SessionBook(self.store, clock=clock)
        self.checkpoints = CheckpointLibrary(self.store, clock=clock)
        self.samplers = SamplerPool(backend, self.store, settings, self.checkpoints)
        self.promises = Promises(kept=settings.limits.kept_results, kept_bytes=settings.limits.kept_bytes)
        self.backlog = Backlog(limits=settings.limits)
        self.sampling = SamplingWork(self.samplers, self.promises, self.backlog, settings, self.meters)
        work = TrainingWork(backend, settings, self.checkpoints, self.samplers, self.meters)
        self._context = LaneContext(
            store=self.store,
            promises=self.promises,
            backlog=self.backlog,
            limits=settings.limits,
            open_client=self._open_client,
            start=work.start,
        )
        self._lanes: dict[str, Lane] = {}
        self._records = dict(self.store.records("models"))
        self._creating: set[asyncio.Task[None]] = set()

    # --- life --------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Take up what the last server of this state folder left: requests that were promised are done now."""
        for model_id, record in self._records.items():
            remove_strays(self.settings.state, model_id, self._known_folders(model_id, record))
            if record["status"] == "ready":
                lane = self._lanes[model_id] = Lane.restored(model_id, record, self._context)
                promise = self.promises.open(f"{model_id}:create")
                self.promises.settle(promise, json_outcome(record["told"]))
                if lane.waiting:
                    lane.begin()
            elif record["status"] == "creating":  # its client asks again, and is told so
                self.store.drop("models", model_id)
        self._records = {k: v for k, v in self._records.items() if v["status"] != "creating"}

    async def close(self) -> None:
        """Finish what the engine has, write every model's state, and free everything."""
        await self.settled()
        await self.sampling.close()
        for model_id, lane in list(self._lanes.items()):
            try:
                await lane.close(keep=True)
            except Exception:  # noqa: BLE001 - whatever it is, the others are written
                _LOG.exception(
                    "the state of %s was not written; the next server repeats more of it", model_id
                )
        await self.samplers.close()
        await self.backend.close()
        self.store.close()

    async def settled(self) -> None:
        """Return once no model is being made."""
        while self._creating:
            await asyncio.wait(self._creating)

    async def tidy(self) -> None:
        """Remove expired checkpoints, and what clients that are silent or gone left (see ``Limits``)."""
        limits = self.settings.limits
        await self.checkpoints.sweep()
        for session_id in self.sessions.silent(limits.gone_s):
            if session_id in self.sessions.silent(
                limits.gone_s
            ):  # still, as ending the ones before took time
                await self.finish_session(session_id, "interrupted", f"silent for {limits.gone_s:g} s")
        self._forget_ended(limits.gone_s)
        silent = set(self.sessions.silent(limits.session_s))
        self.promises.forget_settled(lambda id: ":sample:" in id and id.partition(":")[0] in silent)
        for session_id in silent:
            for model_id in self.model_ids(session_id):
                lane = self._lanes.get(model_id)
                if lane is not None and lane.client is not None and not lane.busy():
                    await self._set_aside(model_id, lane)

    async def finish_session(self, session_id: str, status: str, detail: str | None) -> None:
        """End a session: its models and unnamed weights go, its checkpoints stay."""
        self.sessions.find(session_id)
        self.sessions.change(session_id, status=status, detail=detail, finished=self.clock().isoformat())
        for model_id in self.model_ids(session_id):
            lane = self._lanes.pop(model_id, None)
            if lane is not None:
                await lane.close(keep=False)
            record = {**self._records[model_id], "status": "finished", "snapshot": None}
            self._keep(model_id, record)
            self.store.forget(model_id)
            self.promises.forget_prefix(f"{model_id}:")
            known = self._known_folders(model_id, record)
            await asyncio.to_thread(remove_strays, self.settings.state, model_id, known)
        await self.samplers.drop_session(session_id)
        self.promises.forget_prefix(f"{session_id}:sample:")

    # --- models ------------------------------------------------------------------------------------------------

    def model_ids(self, session_id: str | None = None) -> list[str]:
        """Models of a session, or all, oldest first."""
        found = [
            (record["created"], id)
            for id, record in self._records.items()
            if session_id in (None, record["session_id"])
        ]
        return [id for _, id in sorted(found)]

    def model(self, model_id: str) -> dict[str, Any]:
        """The record of a model.

        Raises:
            NotFoundError: there is none; names the nearest.
        """
        record = self._records.get(model_id)
        if record is None:
            near = nearest(model_id, self._records)
            raise NotFoundError(
                what=f"there is no model {model_id!r}",
                where="model_id",
                remedy=f"did you mean {near!r}?" if near else "create a training client first",
            )
        return record

    def served(self, name: str) -> ServedModel:
        """The base model of that name.

        Raises:
            NotFoundError: it is not served; names the nearest.
        """
        model = self.settings.model(name)
        if model is None:
            known = [served.name for served in self.settings.models]
            near = nearest(name, known)
            raise NotFoundError(
                what=f"{name!r} is not served",
                where="base_model",
                remedy=f"did you mean {near!r}?" if near else f"served: {', '.join(known)}",
            )
        return model

    def create_model(self, body: CreateModel) -> Promise:
        """Begin a new model; its promise is the same however often it is asked for.

        Raises:
            NotFoundError, SessionEndedError: no such session.
        """
        require_adam(body.optimizer_config.type)
        model_id = f"{body.session_id}:train:{body.model_seq_id}"

        async def make() -> None:
            served = self.served(body.base_model)
            lora = None if body.lora_config is None else body.lora_config.model_dump()
            now = self.clock().isoformat()
            record = new_record(served, lora, told, user_metadata=body.user_metadata, created=now)
            await self._begin_model(model_id, record, None)

        told = {"type": "create_model", "model_id": model_id}
        return self._create(model_id, told, make)

    def create_model_from(self, body: LoadWeights) -> Promise:
        """Begin a new model with saved weights, and with the optimiser's state if that is asked for."""
        if body.session_id is None or body.model_seq_id is None:
            raise ConfigError(
                what="neither a model nor a place for a new one is given",
                where="load_weights",
                remedy="give model_id and seq_id, or session_id and model_seq_id",
            )
        if body.optimizer_config is not None:
            require_adam(body.optimizer_config.type)
        model_id = f"{body.session_id}:train:{body.model_seq_id}"

        async def make() -> None:
            entry = self.checkpoints.find(body.path)
            served = self.served(body.base_model or entry["base_model"])
            now = self.clock().isoformat()
            record = new_record(served, entry["lora"], told, user_metadata=body.user_metadata, created=now)
            await self._begin_model(model_id, record, body)

        told = {"type": "load_weights", "path": body.path, "model_id": model_id}
        return self._create(model_id, told, make)

    def lane(self, model_id: str) -> Lane:
        """The queue of a model that takes requests.

        Raises:
            NotFoundError: no such model, or it has ended.
        """
        record = self.model(model_id)
        lane = self._lanes.get(model_id)
        if lane is None or record["status"] != "ready":
            raise NotFoundError(
                what=f"the model {model_id} takes no requests ({record['status']})",
                where="model_id",
                remedy="create another",
            )
        return lane

    async def offer(self, model_id: str, request: Request) -> Promise:
        """Put a training request into its model's queue; raises as ``lane`` and ``Lane.offer``."""
        lane = self.lane(model_id)
        self.sessions.touch(lane.session_id)
        promise = await lane.offer(request)
        lane.record["last_request"] = self.clock().isoformat()
        lane.begin()
        return promise

    def create_sampling_session(self, body: CreateSamplingSession) -> str:
        """A sampler's id; raises as ``SamplerPool.create``."""
        self.sessions.touch(body.session_id)
        id = f"{body.session_id}:sample:{body.sampling_session_seq_id}"
        self.samplers.create(id, base_model=body.base_model, model_path=body.model_path)
        return id

    def state(self) -> dict[str, Any]:
        """What there is now, in numbers."""
        return {
            "sessions_active": len(self.sessions.active()),
            "models_open": sum(lane.client is not None for lane in self._lanes.values()),
            "samplers_open": len(self.samplers),
            "checkpoints": len(self.checkpoints),
            "requests_waiting": self.backlog.requests,
            "request_bytes_waiting": self.backlog.bytes,
            "samples_waiting": self.backlog.samples,
            "promises": len(self.promises),
            "resident_memory_bytes": resident_bytes() or 0,
        }

    # --- pieces ------------------------------------------------------------------------------------------------

    def _create(self, model_id: str, told: Mapping[str, Any], make: Callable[[], Any]) -> Promise:
        session_id = model_id.partition(":")[0]
        self.sessions.touch(session_id)
        id = f"{model_id}:create"
        promise = self.promises.find(id)
        if promise is not None:
            return promise
        promise = self.promises.open(id)
        if model_id in self._records:  # made before a restart
            self.promises.settle(promise, json_outcome(dict(told)))
            return promise

        async def work() -> None:
            try:
                await make()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the promise's result
                self._records.pop(model_id, None)
                self.store.drop("models", model_id)
                self.promises.settle(promise, failure(error))
            else:
                self.promises.settle(promise, json_outcome(dict(told)))

        task = asyncio.create_task(work(), name=id)
        self._creating.add(task)
        task.add_done_callback(self._creating.discard)
        return promise

    async def _begin_model(self, model_id: str, record: dict[str, Any], source: LoadWeights | None) -> None:
        self._keep(model_id, record)
        client = await self._open_client(record)
        lane = Lane(model_id=model_id, record=record, context=self._context)
        if source is not None:
            await client.load_state(self.checkpoints.ref(source.path), with_optimizer=source.optimizer)
            ref = await lane.snapshot(client)
            record["snapshot"] = ref.model_dump(mode="json")
        try:
            self.sessions.touch(str(record["session_id"]))
        except NotFoundError:  # it ended meanwhile
            await client.close()
            raise
        lane.client = client
        record["status"] = "ready"
        self._keep(model_id, record)
        self._lanes[model_id] = lane

    def _forget_ended(self, after_s: float) -> None:
        """Drop the records of sessions that ended so long ago, and of their models, where no checkpoint is left."""
        gone = set(self.sessions.ended(after_s)) - self.checkpoints.sessions()
        for model_id in [id for id, record in self._records.items() if record["session_id"] in gone]:
            self.store.drop("models", model_id)
            del self._records[model_id]
            with suppress(OSError):  # it is not there, or something is in it after all
                model_folder(self.settings.state, model_id).rmdir()
        for session_id in gone:
            self.sessions.forget(session_id)

    async def _set_aside(self, model_id: str, lane: Lane) -> None:
        """Free a model's memory. Its queue goes on to take requests, also where its state could not be written."""
        try:
            await lane.close(keep=True)
        finally:
            fresh = self._lanes[model_id] = Lane.restored(model_id, lane.record, self._context)
            if fresh.waiting:  # came while the old one was closed
                fresh.begin()

    async def _open_client(self, record: Mapping[str, Any]) -> TrainingClient:
        """The training client of a model, in the state that its record names."""
        model_id = str(record["told"]["model_id"])
        served = self.served(str(record["base_model"]))
        folder = model_folder(self.settings.state, model_id)
        folder.mkdir(parents=True, exist_ok=True)
        spec = TrainingSpec(
            base_model=served.source,
            lora=lora_of(record),
            seed=int(record["seed"]),
            checkpoint_dir=folder,
        )
        await asyncio.to_thread(self.backend.check, spec)
        client = await self.backend.create_training_client(spec)
        if record.get("snapshot"):
            await client.load_state(saved_ref(self.settings.state, model_id, record["snapshot"]))
        return client

    def _keep(self, model_id: str, record: dict[str, Any]) -> None:
        self._records[model_id] = record
        self.store.put("models", model_id, str(record["session_id"]), record)

    def _known_folders(self, model_id: str, record: Mapping[str, Any]) -> set[str]:
        """Names of the folders of a model that something refers to."""
        refs = [record["snapshot"]] if record.get("snapshot") else []
        refs += self.checkpoints.refs_of(model_id)
        refs += self.samplers.refs_of(model_id)
        return {Path(ref["path"]).name for ref in refs}
