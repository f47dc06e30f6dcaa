"""The processes that train together, as each of them sees it: joined once, with any number of clients."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from typing import Any, Protocol

import torch

from crucible_torch.adapter import Adapter, fresh_adapter
from crucible_torch.distributed.follower import Follower
from crucible_torch.distributed.leader import LeadTrainer
from crucible_torch.distributed.link import Link
from crucible_torch.distributed.messages import Message, error_of
from crucible_torch.distributed.sharding import ShardedModel, shard
from crucible_torch.distributed.trainer import ShardTrainer
from crucible_torch.distributed.world import World
from crucible_torch.model import LoadedModel
from crucible_torch.settings import EngineSettings
from crucible_train.ports import TrainingSpec
from crucible_train.types import LoraConfig

__all__ = ["Session"]


class _Load(Protocol):
    """Gives a whole model: base model, dtype, and whether it is a base that adapters share."""

    def __call__(self, base_model: str, dtype: str, *, shared: bool) -> LoadedModel: ...


class Session:
    """One of the processes of an engine. ``read`` reads a model anew, ``load`` keeps one that is shared."""

    def __init__(
        self, world: World, device: torch.device, settings: EngineSettings, *, read: _Load, load: _Load
    ) -> None:
        self._settings = settings
        self._read = read
        self._load = load
        self._link = Link(world, device, timeout_s=settings.peer_timeout_s)
        self._bases: dict[tuple[str, str], ShardedModel] = {}
        self._clients = count()
        self._closed = False

    def lead(self, spec: TrainingSpec) -> LeadTrainer:
        """A trainer of all processes; to be called in the first.

        Raises:
            CrucibleError: any process cannot have it.
        """
        client = next(self._clients)
        values = {
            "base_model": spec.base_model,
            "dtype": spec.dtype,
            "lora": None if spec.lora is None else asdict(spec.lora),
            "seed": spec.seed,
        }
        self._link.tell_all(Message(values={**values, "op": "create", "client": client}))
        try:
            model, adapter = self._opened(values)
        finally:
            replies = [(rank, self._link.answer(rank)) for rank in self._link.followers]
        for rank, reply in replies:
            if "error" in reply.values:
                raise error_of(reply.values["error"], rank)
        return LeadTrainer(model, adapter, self._settings, self._link, client=client)

    def follow(self) -> None:
        """Do what the first process says, until it closes; that one alone hears SIGINT and SIGTERM.

        Raises:
            ProcessLost: it is gone, or another process is.
        """
        with _deaf():
            Follower(self._link, self._follow_client).run()
            self._link.close()

    def close(self) -> None:
        """Let the others go; closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        if not self._link.broken:
            self._link.tell_all(Message(values={"op": "close"}))
        self._link.close()

    def _follow_client(self, values: Mapping[str, Any]) -> ShardTrainer:
        model, adapter = self._opened(values)
        return ShardTrainer(model, adapter, self._settings, self._link)

    def _opened(self, values: Mapping[str, Any]) -> tuple[ShardedModel, Adapter | None]:
        base_model, dtype = str(values["base_model"]), str(values["dtype"])
        if values["lora"] is None:
            return self._sharded(base_model, dtype, shared=False), None
        lora = LoraConfig(**values["lora"])
        key = base_model, dtype
        if key not in self._bases:
            self._bases[key] = self._sharded(base_model, dtype, shared=True)
        model = self._bases[key]
        seed = int(values["seed"]) if lora.seed is None else lora.seed
        return model, fresh_adapter(model.shapes(lora), lora, seed=seed, device=model.device)

    def _sharded(self, base_model: str, dtype: str, *, shared: bool) -> ShardedModel:
        return shard(
            self._read(base_model, dtype, shared=shared),
            self._link.mesh,
            open_copy=lambda: self._load(base_model, dtype, shared=shared),
        )


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignore what a terminal or torchrun sends to all processes: the first decides what becomes of it."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
