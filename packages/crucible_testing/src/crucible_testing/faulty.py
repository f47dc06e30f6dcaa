"""Wrappers of a training backend that let faults happen: every call goes through unless a fault overrides it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from crucible_ir import CheckpointRef
from crucible_train.ports import (
    BackendCapabilities,
    CustomLossFn,
    Handle,
    SamplingClient,
    Tokenizer,
    TrainingBackend,
    TrainingClient,
    TrainingSpec,
)
from crucible_train.types import (
    AdamParams,
    Datum,
    ForwardBackwardOutput,
    LossConfig,
    ModelInput,
    OptimStepOutput,
    SampleResponse,
    SamplingParams,
)

__all__ = ["FaultyBackend", "FaultySampler", "FaultyTraining"]


class FaultySampler:
    """A sampler; faults override what they spoil."""

    def __init__(self, inner: SamplingClient) -> None:
        self.inner = inner

    def sample(
        self,
        prompt: ModelInput,
        params: SamplingParams,
        *,
        num_samples: int = 1,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
    ) -> Handle[SampleResponse]:
        """As the inner one."""
        return self.inner.sample(
            prompt,
            self.changed(params, num_samples),
            num_samples=num_samples,
            include_prompt_logprobs=include_prompt_logprobs,
            topk_prompt_logprobs=topk_prompt_logprobs,
        )

    def changed(self, params: SamplingParams, num_samples: int) -> SamplingParams:
        """The settings that the inner one gets."""
        return params

    def compute_logprobs(self, prompt: ModelInput) -> Handle[tuple[float | None, ...]]:
        """As the inner one."""
        return self.inner.compute_logprobs(prompt)

    async def close(self) -> None:
        """Close the inner one."""
        await self.inner.close()


class FaultyTraining:
    """A training client; faults override what they spoil."""

    def __init__(self, inner: TrainingClient, backend: FaultyBackend) -> None:
        self.inner = inner
        self.backend = backend

    def forward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        """As the inner one."""
        return self.inner.forward(data, loss_fn, loss_config)

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        """As the inner one."""
        return self.inner.forward_backward(data, loss_fn, loss_config)

    def forward_backward_custom(
        self, data: Sequence[Datum], loss: CustomLossFn
    ) -> Handle[ForwardBackwardOutput]:
        """As the inner one."""
        return self.inner.forward_backward_custom(data, loss)

    def optim_step(self, params: AdamParams) -> Handle[OptimStepOutput]:
        """As the inner one."""
        return self.inner.optim_step(params)

    def save_state(self, name: str) -> Handle[CheckpointRef]:
        """As the inner one."""
        return self.inner.save_state(name)

    def load_state(self, ref: CheckpointRef, *, with_optimizer: bool = True) -> Handle[None]:
        """As the inner one."""
        return self.inner.load_state(ref, with_optimizer=with_optimizer)

    def save_weights_for_sampler(self, name: str) -> Handle[CheckpointRef]:
        """As the inner one."""
        return self.inner.save_weights_for_sampler(name)

    def sampling_client(self) -> Handle[SamplingClient]:
        """As the inner one, faulty where the backend's samplers are; waits for it."""
        return Handle.completed(self.backend.sampler(self.inner.sampling_client().result()))

    async def close(self) -> None:
        """Close the inner one."""
        if self in self.backend.clients:
            self.backend.clients.remove(self)
        await self.inner.close()


class FaultyBackend:
    """A backend whose clients are faulty; closing it leaves the inner one open.

    Args:
        training, sampler: make the faulty client of a sound one.
    """

    def __init__(
        self,
        inner: TrainingBackend,
        *,
        training: Callable[[TrainingClient, FaultyBackend], TrainingClient] = FaultyTraining,
        sampler: Callable[[SamplingClient], SamplingClient] = FaultySampler,
    ) -> None:
        self.inner = inner
        self.training = training
        self.sampler = sampler
        self.clients: list[TrainingClient] = []
        """Those that are open, oldest first."""
        self.notes: dict[Any, Any] = {}
        """What faults remember of a client."""
        self.made = 0
        self._base: TrainingClient | None = None

    def capabilities(self) -> BackendCapabilities:
        """As the inner one."""
        return self.inner.capabilities()

    def check(self, spec: TrainingSpec) -> None:
        """As the inner one."""
        self.inner.check(spec)

    def model_digest(self, base_model: str) -> str:
        """As the inner one."""
        return self.inner.model_digest(base_model)

    async def load_tokenizer(self, base_model: str) -> Tokenizer:
        """As the inner one."""
        return await self.inner.load_tokenizer(base_model)

    async def create_training_client(self, spec: TrainingSpec) -> TrainingClient:
        """A faulty client."""
        if self._base is None:
            self._base = await self.inner.create_training_client(spec)
        client = self.training(await self.inner.create_training_client(spec), self)
        self.clients.append(client)
        self.made += 1
        return client

    async def create_sampling_client(
        self, base_model: str, weights: CheckpointRef | None = None
    ) -> SamplingClient:
        """A faulty sampler."""
        return self.sampler(await self.inner.create_sampling_client(base_model, weights))

    def fresh(self) -> TrainingClient:
        """A sound client that is never trained."""
        assert self._base is not None, "no client was made yet"
        return self._base

    def list_checkpoints(self, checkpoint_dir: Path) -> list[CheckpointRef]:
        """As the inner one."""
        return self.inner.list_checkpoints(checkpoint_dir)

    def export(self, weights: CheckpointRef, destination: Path, *, merge: bool) -> Path:
        """As the inner one."""
        return self.inner.export(weights, destination, merge=merge)

    async def close(self) -> None:
        """Nothing: the inner backend may serve others."""
