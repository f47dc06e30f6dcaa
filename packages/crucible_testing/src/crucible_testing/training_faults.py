"""Faults of training clients: losses, gradients, the optimiser, states, order, and adapters that do not arrive."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from crucible_ir import CheckpointRef
from crucible_testing.faulty import FaultyTraining
from crucible_train.ports import CustomLoss, CustomLossFn, Handle, SamplingClient
from crucible_train.types import (
    AdamParams,
    Datum,
    ForwardBackwardOutput,
    LossConfig,
    ModelInput,
    OptimStepOutput,
    TensorData,
)

__all__ = [
    "AdapterNotSampled",
    "BetasIgnored",
    "ClipIgnored",
    "CustomSignTurned",
    "DecayIgnored",
    "EpsIgnored",
    "ForwardAccumulates",
    "GradientMaskShifted",
    "GradientsReplaced",
    "GradientsStay",
    "LeaksIntoAnother",
    "LoadedWithOptimizer",
    "LoadedWithoutOptimizer",
    "MaskShifted",
    "MeanOverTokens",
    "NoBiasCorrection",
    "StaleSampler",
    "StepsOvertaken",
    "TokensClamped",
    "WeightsNormalised",
]

T = TypeVar("T")


def _with_weights(data: Sequence[Datum], change: Callable[[Datum], NDArray[Any]]) -> list[Datum]:
    return [
        Datum(one.model_input, {**one.loss_fn_inputs, "weights": TensorData(change(one).astype(np.float32))})
        if "weights" in one.loss_fn_inputs
        else one
        for one in data
    ]


class _Weighted(FaultyTraining):
    """Changes the weights of every pass."""

    def change(self, data: Sequence[Datum]) -> list[Datum]:
        raise NotImplementedError

    def forward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        return self.inner.forward(self.change(data), loss_fn, loss_config)

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        return self.inner.forward_backward(self.change(data), loss_fn, loss_config)


class MaskShifted(_Weighted):
    """A weight counts the target before its own."""

    def change(self, data: Sequence[Datum]) -> list[Datum]:
        return _with_weights(data, lambda one: np.roll(one.weights, -1, axis=0))


class GradientMaskShifted(MaskShifted):
    """The same in the gradient alone; the loss that is told is right."""

    def forward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        return self.inner.forward(data, loss_fn, loss_config)

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        told = self.inner.forward(data, loss_fn, loss_config)
        super().forward_backward(data, loss_fn, loss_config).result()
        return told


class MeanOverTokens(_Weighted):
    """The loss is divided by the number of positions."""

    def change(self, data: Sequence[Datum]) -> list[Datum]:
        count = sum(one.model_input.length for one in data)
        return _with_weights(data, lambda one: one.weights / count)


class WeightsNormalised(_Weighted):
    """The loss is divided by the sum of the weights."""

    def change(self, data: Sequence[Datum]) -> list[Datum]:
        total = sum(float(np.abs(one.weights).sum()) for one in data if "weights" in one.loss_fn_inputs)
        return _with_weights(data, lambda one: one.weights / (total or 1.0))


class ForwardAccumulates(FaultyTraining):
    """``forward_only`` is ignored."""

    def forward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        return self.inner.forward_backward(data, loss_fn, loss_config)


class GradientsReplaced(FaultyTraining):
    """The gradients of a pass take the place of those before it."""

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        if self.backend.notes.get(self):
            self.inner.optim_step(AdamParams(learning_rate=0.0)).result()
        self.backend.notes[self] = True
        return self.inner.forward_backward(data, loss_fn, loss_config)

    def optim_step(self, params: AdamParams) -> Handle[OptimStepOutput]:
        self.backend.notes[self] = False
        return self.inner.optim_step(params)


class GradientsStay(FaultyTraining):
    """A step does not clear the gradients."""

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        self.backend.notes.setdefault(self, []).append((data, loss_fn, loss_config))
        return self.inner.forward_backward(data, loss_fn, loss_config)

    def optim_step(self, params: AdamParams) -> Handle[OptimStepOutput]:
        told = self.inner.optim_step(params)
        for data, loss_fn, loss_config in self.backend.notes.get(self, ()):
            self.inner.forward_backward(data, loss_fn, loss_config)
        return told


class CustomSignTurned(FaultyTraining):
    """A custom loss's gradient goes uphill."""

    def forward_backward_custom(
        self, data: Sequence[Datum], loss: CustomLossFn
    ) -> Handle[ForwardBackwardOutput]:
        def turned(datums: Sequence[Datum], logprobs: Sequence[NDArray[np.float32]]) -> CustomLoss:
            value = loss(datums, logprobs)
            return replace(value, gradients=[-gradient for gradient in value.gradients])

        return self.inner.forward_backward_custom(data, turned)


class _OtherSettings(FaultyTraining):
    """Changes the settings of each step; steps are counted from 1."""

    def change(self, params: AdamParams, count: int) -> AdamParams:
        raise NotImplementedError

    def optim_step(self, params: AdamParams) -> Handle[OptimStepOutput]:
        count = self.backend.notes[self] = self.backend.notes.get(self, 0) + 1
        return self.inner.optim_step(self.change(params, count))

    def load_state(self, ref: CheckpointRef, *, with_optimizer: bool = True) -> Handle[None]:
        self.backend.notes[self] = (ref.step or 0) if with_optimizer else 0
        return self.inner.load_state(ref, with_optimizer=with_optimizer)


class NoBiasCorrection(_OtherSettings):
    """m and √v as they are: a corrected step with another rate and another eps does the same."""

    def change(self, params: AdamParams, count: int) -> AdamParams:
        first, second = 1 - params.beta1**count, np.sqrt(1 - params.beta2**count)
        factor = float(first / second)
        return replace(
            params,
            learning_rate=params.learning_rate * factor,
            eps=float(params.eps / second),
            weight_decay=params.weight_decay / factor,
        )


class BetasIgnored(_OtherSettings):
    """Betas are those of torch's own defaults."""

    def change(self, params: AdamParams, count: int) -> AdamParams:
        return replace(params, beta1=0.9, beta2=0.999)


class EpsIgnored(_OtherSettings):
    """eps is a constant."""

    def change(self, params: AdamParams, count: int) -> AdamParams:
        return replace(params, eps=1e-8)


class ClipIgnored(_OtherSettings):
    """Nothing is clipped."""

    def change(self, params: AdamParams, count: int) -> AdamParams:
        return replace(params, grad_clip_norm=0.0)


class DecayIgnored(_OtherSettings):
    """Weights do not decay."""

    def change(self, params: AdamParams, count: int) -> AdamParams:
        return replace(params, weight_decay=0.0)


class LoadedWithoutOptimizer(FaultyTraining):
    """Moments are lost on their way through a checkpoint."""

    def load_state(self, ref: CheckpointRef, *, with_optimizer: bool = True) -> Handle[None]:
        return self.inner.load_state(ref, with_optimizer=False)


class LoadedWithOptimizer(FaultyTraining):
    """Moments come back although they were not asked for."""

    def load_state(self, ref: CheckpointRef, *, with_optimizer: bool = True) -> Handle[None]:
        return self.inner.load_state(ref, with_optimizer=True)


class LeaksIntoAnother(FaultyTraining):
    """A pass also reaches the model that was opened before."""

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        place = self.backend.clients.index(self)
        if place > 0:
            older = self.backend.clients[place - 1]
            assert isinstance(older, FaultyTraining)
            older.inner.forward_backward(data, loss_fn, loss_config)
        return self.inner.forward_backward(data, loss_fn, loss_config)


class _Late(Handle[T]):
    """Work that begins when somebody waits for it, or when it is told to."""

    __slots__ = ("_begin", "_begun")

    def __init__(self, begin: Callable[[], Handle[T]]) -> None:
        self._begin = begin
        self._begun: Handle[T] | None = None

    def begin(self) -> Handle[T]:
        if self._begun is None:
            self._begun = self._begin()
        return self._begun

    def __await__(self) -> Generator[Any, None, T]:
        return self.begin().__await__()


class StepsOvertaken(FaultyTraining):
    """A pass that comes while a step waits is done before it."""

    def optim_step(self, params: AdamParams) -> Handle[OptimStepOutput]:
        self._settle()
        late = self.backend.notes[self] = _Late(lambda: self.inner.optim_step(params))
        return late

    def forward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        self._settle()
        return self.inner.forward(data, loss_fn, loss_config)

    def _settle(self) -> None:
        if self in self.backend.notes:
            self.backend.notes.pop(self).begin()


class TokensClamped(FaultyTraining):
    """Ids outside the vocabulary become the last one of it."""

    def forward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        return self.inner.forward([_clamped(one) for one in data], loss_fn, loss_config)

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        return self.inner.forward_backward([_clamped(one) for one in data], loss_fn, loss_config)


def _clamped(datum: Datum) -> Datum:
    tokens = [min(token, 60) for token in datum.model_input.to_ints()]
    targets = TensorData(np.minimum(datum.target_tokens, 60))
    return Datum(ModelInput.from_ints(tokens), {**datum.loss_fn_inputs, "target_tokens": targets})


class AdapterNotSampled(FaultyTraining):
    """Live samplers are those of the base model."""

    def sampling_client(self) -> Handle[SamplingClient]:
        fresh = self.backend.fresh()
        return Handle.completed(self.backend.sampler(fresh.sampling_client().result()))


class StaleSampler(FaultyTraining):
    """Every live sampler has the weights of the first."""

    def sampling_client(self) -> Handle[SamplingClient]:
        if self not in self.backend.notes:
            self.backend.notes[self] = super().sampling_client()
        first: Handle[SamplingClient] = self.backend.notes[self]
        return first
