"""Sampling sessions: which weights each one samples from, and the few samplers that are held open at once."""

from __future__ import annotations

import asyncio
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from crucible_gateway.tinker.checkpoints import CheckpointLibrary, saved_ref
from crucible_gateway.tinker.settings import TinkerSettings
from crucible_gateway.tinker.store import StateStore
from crucible_ir import CheckpointRef, ConfigError, NotFoundError, nearest
from crucible_train.ports import SamplingClient, TrainingBackend

__all__ = ["SamplerPool"]


class SamplerPool:
    """Samplers by id, ``<session>:sample:<number>``, over any number of weights.

    A record is a JSON object: ``base_model`` (a served name), and for weights of a model either ``model_path`` (a
    checkpoint's path) or ``model_id``, ``ref`` and ``inflight``. Samplers of one model that are in flight all
    follow the newest of them. Weights are loaded when they are first sampled from; the ones that were not used for
    longest are let go beyond the limit. A client that somebody samples from is closed once nobody does.
    """

    def __init__(
        self,
        backend: TrainingBackend,
        store: StateStore,
        settings: TinkerSettings,
        checkpoints: CheckpointLibrary,
    ) -> None:
        self._backend = backend
        self._store = store
        self._settings = settings
        self._checkpoints = checkpoints
        self._records = dict(sorted(store.records("samplers"), key=lambda item: _age(item[0])))
        self._open: OrderedDict[str, SamplingClient] = OrderedDict()
        self._users: dict[str, int] = {}
        self._let_go: dict[str, list[SamplingClient]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def __len__(self) -> int:
        return len(self._open)

    def ids(self, session_id: str) -> list[str]:
        """The samplers of a session."""
        return [id for id in self._records if id.startswith(f"{session_id}:sample:")]

    def find(self, id: str) -> dict[str, Any]:
        """The record of a sampler.

        Raises:
            NotFoundError: there is none of that id.
        """
        record = self._records.get(id)
        if record is None:
            raise NotFoundError(
                what=f"there is no sampler {id!r}", where="sampling_session_id", remedy="create another"
            )
        return record

    def create(self, id: str, *, base_model: str | None, model_path: str | None) -> None:
        """A sampler over a base model or over a checkpoint; asking twice for one id makes one.

        Raises:
            NotFoundError: no such model or checkpoint.
            ConfigError: neither was named.
        """
        if id in self._records:
            return
        if model_path is not None:
            base_model = str(self._checkpoints.find(model_path)["base_model"])
        elif base_model is None:
            raise ConfigError(
                what="neither base_model nor model_path is given", where="sampler", remedy="give one of them"
            )
        model = self._settings.model(base_model)
        if model is None:
            known = [served.name for served in self._settings.models]
            near = nearest(base_model, known)
            raise NotFoundError(
                what=f"{base_model!r} is not served",
                where="base_model",
                remedy=f"did you mean {near!r}?" if near else f"served: {', '.join(known)}",
            )
        self._keep(id, {"base_model": model.name, "model_path": model_path, "clones": 0})

    async def publish(self, id: str, record: Mapping[str, Any], client: SamplingClient, *, kept: int) -> None:
        """A sampler over weights that a model just saved, open already; older unnamed weights go beyond ``kept``."""
        key = self._key(record)
        self._keep(id, {**record, "clones": 0})
        before = self._open.pop(key, None)
        self._open[key] = client
        if before is not None:
            await self._close(key, before)
        unnamed = [
            (other, found)
            for other, found in self._records.items()
            if found.get("ref") and found["model_id"] == record["model_id"] and other != id
        ]
        for other, found in unnamed[: max(0, len(unnamed) + 1 - kept)]:
            if self._records.get(other) is found:
                await self._forget(other, found)
        await self._shrink()

    def join(self, id: str) -> int:
        """A number of its own for another process that samples from the sampler."""
        record = self.find(id)
        clones = int(record.get("clones", 0)) + 1
        self._keep(id, {**record, "clones": clones})
        return clones

    @asynccontextmanager
    async def using(self, id: str) -> AsyncIterator[SamplingClient]:
        """The client that samples for ``id``, opened if need be and not let go meanwhile.

        Raises:
            NotFoundError: no such sampler, or its weights are gone.
        """
        record = self._current(self.find(id))
        key = self._key(record)
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with self._locks.setdefault(key, asyncio.Lock()):
                client = self._open.get(key)
                if client is None:
                    client = self._open[key] = await self._load(record)
                self._open.move_to_end(key)
            await self._shrink()
            yield client
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                await self._left(key)

    async def drop_session(self, session_id: str) -> None:
        """Forget the samplers of a session that ended, and their unnamed weights."""
        for id in self.ids(session_id):
            record = self._records.get(id)
            if record is not None:
                await self._forget(id, record)

    def refs_of(self, model_id: str) -> list[dict[str, Any]]:
        """What is kept of the references of a model's unnamed weights."""
        mine = [record for record in self._records.values() if record.get("model_id") == model_id]
        return [record["ref"] for record in mine if record.get("ref")]

    async def close(self) -> None:
        """Close what is open."""
        clients = [*self._open.values(), *(client for let_go in self._let_go.values() for client in let_go)]
        self._open.clear()
        self._let_go.clear()
        for client in clients:
            await client.close()

    def _keep(self, id: str, record: Mapping[str, Any]) -> None:
        self._records[id] = dict(record)
        self._store.put("samplers", id, id.partition(":")[0], record)

    def _current(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record itself, or the newest of its model's where it follows that."""
        if not record.get("inflight"):
            return record
        return [
            found
            for found in self._records.values()
            if found.get("inflight") and found["model_id"] == record["model_id"]
        ][-1]

    def _key(self, record: Mapping[str, Any]) -> str:
        if record.get("model_path"):
            return str(record["model_path"])
        return str(record["ref"]["path"]) if record.get("ref") else f"base {record['base_model']}"

    async def _load(self, record: Mapping[str, Any]) -> SamplingClient:
        ref: CheckpointRef | None = None
        if record.get("model_path"):
            ref = self._checkpoints.ref(str(record["model_path"]))
        elif record.get("ref"):
            ref = saved_ref(self._store.folder, str(record["model_id"]), record["ref"])
        model = self._settings.model(str(record["base_model"]))
        if model is None:
            raise NotFoundError(
                what=f"{record['base_model']!r} is no longer served",
                where="base_model",
                remedy="start the server with it",
            )
        return await self._backend.create_sampling_client(model.source, ref)

    async def _forget(self, id: str, record: Mapping[str, Any]) -> None:
        self._records.pop(id, None)
        self._store.drop("samplers", id)
        key = self._key(record)
        if any(self._key(other) == key for other in self._records.values()):
            return
        if key in self._open:
            await self._close(key, self._open.pop(key))
        if record.get("ref"):
            folder = saved_ref(self._store.folder, str(record["model_id"]), record["ref"]).path
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _shrink(self) -> None:
        """Let go of unused samplers beyond the limit; who is unused is seen anew after each, as closing takes time."""
        while len(self._open) > self._settings.limits.open_samplers:
            key = next((key for key in self._open if not self._users.get(key)), None)
            if key is None:
                return
            await self._close(key, self._open.pop(key))

    async def _close(self, key: str, client: SamplingClient) -> None:
        """Close a client that was taken out: now, or when its last user leaves."""
        if self._users.get(key):
            self._let_go.setdefault(key, []).append(client)
            return
        if key not in self._open:
            self._locks.pop(key, None)
        await client.close()

    async def _left(self, key: str) -> None:
        """The last user of ``key`` left."""
        if key not in self._open:
            self._locks.pop(key, None)
        for client in self._let_go.pop(key, ()):
            await client.close()


def _age(id: str) -> tuple[str, int]:
    """Session and number of a sampler: within a session, the order in which they were made."""
    session, _, number = id.rpartition(":")
    return session, int(number) if number.isdigit() else -1
