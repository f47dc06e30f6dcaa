"""What checks work with: fresh clients of one backend, steps on them, and the size of a gradient."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crucible_ir import CheckpointRef
from crucible_kitchen.conformance.check import Mismatch, NotRun
from crucible_kitchen.conformance.compare import Logprobs, distance
from crucible_kitchen.conformance.material import BATCH
from crucible_train.ports import (
    BackendCapabilities,
    SamplingClient,
    TrainingBackend,
    TrainingClient,
    TrainingSpec,
)
from crucible_train.types import AdamParams, Datum, LoraConfig

__all__ = ["STILL", "Bench", "BenchSettings", "Step", "gradient_norm"]

Step = tuple[Sequence[Datum], AdamParams]
"""Data of one ``forward_backward`` call with cross_entropy, and the optimiser step after it."""

STILL = AdamParams(learning_rate=0.0)
"""A step that uses up gradients and leaves the weights as they are."""

_LEAST_MOVE, _GREATEST_MOVE, _WANTED_MOVE = 0.2, 2.0, 0.6
"""Nats by which a calibrated step moves the log-probability that it moves most."""
_TRIES, _LEAP = 10, 32.0
_NORM = re.compile(r"(?=.*grad)(?=.*(?:norm|l2))", re.IGNORECASE)
_PREFERRED_NORM = "unclipped_grad_l2:mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """Which model is tried, and how exact its numbers are.

    ``tolerance`` bounds the difference of two log-probabilities, in nats, that should be the same number.
    """

    model: str
    folder: Path
    rank: int = 8
    seed: int = 7
    tolerance: float = 1e-3


def gradient_norm(metrics: Mapping[str, float]) -> float:
    """L2 norm of the whole gradient before clipping, from the metrics of an optimiser step.

    Raises:
        NotRun: the step reports none.
    """
    if _PREFERRED_NORM in metrics:
        return metrics[_PREFERRED_NORM]
    named = sorted(name for name in metrics if _NORM.search(name))
    if not named:
        told = ", ".join(sorted(metrics)) or "nothing"
        raise NotRun(f"optim_step reports no norm of the gradient ({_PREFERRED_NORM}); it reports {told}")
    return metrics[named[0]]


class Bench:
    """A backend under test. What a check opens is closed when the check is over (``clear``)."""

    def __init__(
        self, backend: TrainingBackend, capabilities: BackendCapabilities, settings: BenchSettings
    ) -> None:
        self.backend = backend
        self.capabilities = capabilities
        self.settings = settings
        self._open: list[TrainingClient | SamplingClient] = []
        self._base: list[NDArray[np.float32]] | None = None
        self._norm: float | None = None
        self._calibrated: dict[float, tuple[float, list[NDArray[np.float32]]]] = {}
        self._names = 0
        self._start: CheckpointRef | None = None

    @property
    def tolerance(self) -> float:
        """Nats by which two log-probabilities that should be the same may differ."""
        return self.settings.tolerance

    def spec(self) -> TrainingSpec:
        """The adapter that checks train."""
        return TrainingSpec(
            base_model=self.settings.model,
            lora=LoraConfig(rank=self.settings.rank),
            seed=self.settings.seed,
            checkpoint_dir=self.settings.folder,
        )

    async def fresh(self) -> TrainingClient:
        """A new adapter; all are the same at first."""
        client = await self.backend.create_training_client(self.spec())
        self._open.append(client)
        if self._start is not None:
            await client.load_state(self._start, with_optimizer=False)
        return client

    async def begin_from_a_state(self) -> None:
        """From now on let every fresh adapter begin from one saved state, where seeds do not make them equal."""
        client = await self.fresh()
        self._start = await client.save_state(self.name("start"))
        self._base, self._norm = None, None
        self._calibrated.clear()

    async def base_sampler(self) -> SamplingClient:
        """A sampler over the base model."""
        return self.kept(await self.backend.create_sampling_client(self.settings.model))

    async def sampler_of(self, client: TrainingClient) -> SamplingClient:
        """A sampler over a client's weights as they are."""
        return self.kept(await client.sampling_client())

    def kept(self, sampler: SamplingClient) -> SamplingClient:
        """The sampler, which ``clear`` closes."""
        self._open.append(sampler)
        return sampler

    def name(self, stem: str) -> str:
        """A name for a checkpoint that no other has."""
        self._names += 1
        return f"conformance-{stem}-{self._names}"

    async def clear(self) -> None:
        """Close what the last check opened."""
        while self._open:
            await self._open.pop().close()

    async def base(self) -> list[NDArray[np.float32]]:
        """Log-probabilities of ``BATCH`` under a fresh adapter."""
        if self._base is None:
            client = await self.fresh()
            self._base = (await client.forward(BATCH)).logprobs
        return self._base

    async def train(self, client: TrainingClient, *steps: Step) -> None:
        """Do the steps, each awaited before the next."""
        for data, params in steps:
            await client.forward_backward(data)
            await client.optim_step(params)

    async def after(self, *steps: Step) -> list[NDArray[np.float32]]:
        """Log-probabilities of ``BATCH`` under a fresh adapter that took the steps."""
        client = await self.fresh()
        await self.train(client, *steps)
        return (await client.forward(BATCH)).logprobs

    async def moved(self, logprobs: Logprobs) -> float:
        """How far they are from those of a fresh adapter, in nats."""
        return distance(logprobs, await self.base())

    async def norm(self, client: TrainingClient, *passes: Sequence[Datum]) -> float:
        """Norm of the sum of the gradients of the passes; weights stay as they are.

        Raises:
            NotRun: the backend does not tell norms.
        """
        for data in passes:
            await client.forward_backward(data)
        return gradient_norm((await client.optim_step(STILL)).metrics)

    async def batch_norm(self) -> float:
        """Norm of the gradient of ``BATCH`` under a fresh adapter.

        Raises:
            NotRun: the backend does not tell norms.
        """
        if self._norm is None:
            self._norm = await self.norm(await self.fresh(), BATCH)
        return self._norm

    async def rate(self, eps: float = 1e-8) -> float:
        """A learning rate with which one fresh step on ``BATCH`` moves log-probabilities by about half a nat.

        Raises:
            Mismatch: none was found, since steps do not move them.
        """
        if eps not in self._calibrated:
            self._calibrated[eps] = await self._calibrate(eps)
        return self._calibrated[eps][0]

    async def stepped(self, eps: float = 1e-8) -> list[NDArray[np.float32]]:
        """Log-probabilities of ``BATCH`` under a fresh adapter after the step of ``params``."""
        await self.rate(eps)
        return self._calibrated[eps][1]

    async def params(self, eps: float = 1e-8, *, times: float = 1.0) -> AdamParams:
        """Optimiser settings of a calibrated step, its learning rate ``times`` that."""
        return AdamParams(learning_rate=await self.rate(eps) * times, eps=eps)

    async def _calibrate(self, eps: float) -> tuple[float, list[NDArray[np.float32]]]:
        rate, tried = max(1e-2, 1e-3 * eps), []
        for _ in range(_TRIES):
            found = await self.after((BATCH, AdamParams(learning_rate=rate, eps=eps)))
            moved = await self.moved(found)
            if _LEAST_MOVE <= moved <= _GREATEST_MOVE:
                return rate, found
            tried.append(f"{rate:.1g}: {moved:.2g}")
            rate *= float(np.clip(_WANTED_MOVE / max(moved, 1e-9), 1 / _LEAP, _LEAP))
        raise Mismatch(
            expected=f"a learning rate whose step moves log-probabilities by {_LEAST_MOVE} to {_GREATEST_MOVE} nats",
            found=f"nats moved by each rate: {'; '.join(tried)}",
            diagnosis="optimiser steps do not reach the weights that forward reads",
        )
