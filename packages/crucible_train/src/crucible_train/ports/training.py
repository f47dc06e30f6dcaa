"""The port of a model under training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from crucible_ir.refs import CheckpointRef
from crucible_train.ports.handle import Handle
from crucible_train.ports.sampling import SamplingClient
from crucible_train.types import AdamParams, Datum, ForwardBackwardOutput, LossConfig, OptimStepOutput

__all__ = ["CustomLoss", "CustomLossFn", "TrainingClient"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomLoss:
    """Value of a custom loss, its gradient for each datum's log-probabilities, and metrics to report.

    ``gradients[i]`` is ∂loss/∂logprobs of datum i, float (N_i,) or (N_i, K).
    """

    loss: float
    gradients: Sequence[NDArray[np.floating]]
    metrics: Mapping[str, float]


CustomLossFn = Callable[[Sequence[Datum], Sequence[NDArray[np.float32]]], CustomLoss]
"""Takes the data and the log-probability of every target token; numpy in, numpy out."""


@runtime_checkable
class TrainingClient(Protocol):
    """One set of trainable weights (an adapter over a shared base, or a whole model).

    Every method that returns a handle submits at once and in order: work is done in the order of the
    calls, gradients accumulate over ``forward_backward`` calls until ``optim_step`` uses and clears them.
    Losses are sums over tokens, never means.
    """

    def forward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        """Loss and log-probabilities only; leaves gradients as they are."""
        ...

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        """Loss, log-probabilities, and gradients added to those that wait for ``optim_step``."""
        ...

    def forward_backward_custom(
        self, data: Sequence[Datum], loss: CustomLossFn
    ) -> Handle[ForwardBackwardOutput]:
        """As ``forward_backward`` with a loss of the caller's over the log-probabilities."""
        ...

    def optim_step(self, params: AdamParams) -> Handle[OptimStepOutput]:
        """One AdamW step with the accumulated gradients, which it clears.

        A failed pass adds none, so that a step that was submitted behind it, before anybody knew, is refused too:
        those who submit ahead rely on it never to take a step without the gradients that it was for.

        Raises (from the handle):
            TrainError: no gradients wait, or they are not finite; weights and optimiser state stay as they are. An
                engine behind a service may tell this as another CrucibleError.
        """
        ...

    def save_state(self, name: str) -> Handle[CheckpointRef]:
        """Weights, optimiser state and random state, complete on disk when the handle is done."""
        ...

    def load_state(self, ref: CheckpointRef, *, with_optimizer: bool = True) -> Handle[None]:
        """Put a saved state in place of the present one.

        Raises (from the handle):
            IntegrityError: the checkpoint's bytes do not match its digests.
            NotFoundError: there is no such checkpoint.
        """
        ...

    def save_weights_for_sampler(self, name: str) -> Handle[CheckpointRef]:
        """Weights alone, in the format that ``TrainingBackend.create_sampling_client`` and ``export`` read."""
        ...

    def sampling_client(self) -> Handle[SamplingClient]:
        """A sampler over the weights as they are once all submitted work is done."""
        ...

    async def close(self) -> None:
        """Wait for submitted work and free what the client holds; closing twice is harmless."""
        ...
