"""The connection between the processes of one run: commands, replies, agreement, and last words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from crucible_ir.errors import ConfigError, CrucibleError, ProcessLost
from crucible_torch.distributed.messages import Message, error_of, told
from crucible_torch.distributed.world import World

__all__ = ["Link"]

_IDLE = timedelta(days=365)
"""A follower waits for its next command as long as the leader lives."""
_TROUBLE = ("gloo", "nccl", "connection", "timed out", "timeout", "socket")


class Link:
    """Joined processes. ``mesh`` is what weights are sharded over.

    Gradients and weights travel by gloo on a CPU and by NCCL on GPUs; commands and replies always by gloo. What
    takes longer than ``timeout_s`` counts as lost, except that followers wait for commands without end.
    """

    def __init__(self, world: World, device: torch.device, *, timeout_s: float) -> None:
        _require_torch()
        self.world = world
        self.device = device
        self.broken = False
        limit = timedelta(seconds=timeout_s)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        exported: Any = dist  # some of its names are not declared as such
        with self.trouble():
            store, _, _ = next(iter(exported.rendezvous("env://", timeout=limit)))
            self._words = exported.PrefixStore("crucible", store)
            dist.init_process_group(
                backend, store=store, rank=world.rank, world_size=world.size, timeout=limit
            )
            self._commands = dist.new_group(backend="gloo", timeout=_IDLE)
            self._replies = dist.new_group(backend="gloo", timeout=limit)
            self.mesh: DeviceMesh = init_device_mesh(device.type, (world.size,))

    def tell(self, rank: int, message: Message) -> None:
        """Give a follower a command, or what it waits for within one."""
        self._send(rank, message, self._commands)

    def tell_all(self, message: Message) -> None:
        """Give every follower the same."""
        for rank in self.followers:
            self.tell(rank, message)

    def listen(self) -> Message:
        """Wait for the leader."""
        return self._receive(0, self._commands)

    def reply(self, message: Message) -> None:
        """Answer the leader."""
        self._send(0, message, self._replies)

    def answer(self, rank: int) -> Message:
        """Wait for a follower's answer."""
        return self._receive(rank, self._replies)

    @property
    def followers(self) -> range:
        """Numbers of the other processes."""
        return range(1, self.world.size)

    def sum(self, tensor: torch.Tensor) -> None:
        """Add up ``tensor`` over all processes, in place."""
        with self.trouble():
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM)

    def most(self, *numbers: int) -> tuple[int, ...]:
        """The greatest of each number over all processes."""
        found = torch.tensor(numbers, dtype=torch.int64)
        with self.trouble():
            dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self._replies)
        return tuple(int(n) for n in found)

    @contextmanager
    def trouble(self) -> Iterator[None]:
        """Turn a connection that breaks inside the block into a sentence; the link is of no use after it.

        Raises:
            CrucibleError: what another process said before it ended.
            ProcessLost: another process is gone, or did not answer in time.
        """
        if self.broken:
            raise ProcessLost(
                what="the processes of the run are out of step after an error",
                where=f"process {self.world.rank} of {self.world.size}",
                remedy="go on from the last checkpoint",
            )
        try:
            yield
        except CrucibleError:
            raise
        except RuntimeError as error:
            if not _is_trouble(error):
                raise
            self.broken = True
            said = self._last_words()
            if said is not None:
                raise said from error
            raise ProcessLost(
                what=f"another process of the run is gone or does not answer ({_first_line(error)})",
                where=f"process {self.world.rank} of {self.world.size}",
                remedy="look at the output of the others; then go on from the last checkpoint",
            ) from error

    @contextmanager
    def unison(self) -> Iterator[None]:
        """Work in which all processes meet: an error inside leaves the others waiting, and the link of no use."""
        with self.trouble():
            try:
                yield
            except BaseException:
                self.broken = True
                raise

    def last_words(self, error: BaseException) -> None:
        """Leave word of why this process ends, for a leader that will miss it."""
        try:
            self._words.set(f"{self.world.rank}", json.dumps(told(error)))
        except RuntimeError:
            return  # whoever keeps the words is gone as well

    def close(self) -> None:
        """Leave; harmless after trouble."""
        if dist.is_initialized() and not self.broken:
            with self.trouble():
                dist.destroy_process_group()

    def _last_words(self) -> CrucibleError | None:
        for rank in range(self.world.size):
            try:
                if rank != self.world.rank and self._words.check([f"{rank}"]):
                    return error_of(json.loads(self._words.get(f"{rank}")), rank)
            except RuntimeError:
                return None
        return None

    def _send(self, rank: int, message: Message, group: Any) -> None:
        raw = torch.from_numpy(np.frombuffer(message.to_bytes(), dtype=np.uint8).copy())
        with self.trouble():
            dist.send(torch.tensor([len(raw)]), dst=rank, group=group)
            dist.send(raw, dst=rank, group=group)

    def _receive(self, rank: int, group: Any) -> Message:
        length = torch.zeros(1, dtype=torch.int64)
        with self.trouble():
            dist.recv(length, src=rank, group=group)
            raw = torch.empty(int(length), dtype=torch.uint8)
            dist.recv(raw, src=rank, group=group)
        return Message.from_bytes(raw.numpy().tobytes())


def _is_trouble(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in _TROUBLE)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _require_torch() -> None:
    from torch.distributed import checkpoint

    if not dist.is_available() or not hasattr(checkpoint, "HuggingFaceStorageReader"):
        raise ConfigError(
            what=f"torch {torch.__version__} cannot train in several processes",
            where="local engine",
            remedy="install torch 2.9 or newer, built with distributed, or train in one process",
        )
