"""What each process does of a client's work: its share of the examples, its part of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributed.tensor import DTensor

from crucible_ir.errors import CrucibleError, IntegrityError, TrainError
from crucible_torch.adapter import Adapter
from crucible_torch.distributed.link import Link
from crucible_torch.distributed.sharding import ShardedModel, idle_batch
from crucible_torch.head import Coefficients
from crucible_torch.losses import Loss
from crucible_torch.memory import memory_errors
from crucible_torch.optimizer import MOMENTS, gradient_norm
from crucible_torch.packing import Example, MicroBatch, micro_batches
from crucible_torch.seeding import backward_from
from crucible_torch.settings import EngineSettings
from crucible_torch.trainer import Saved, Trainer, no_gradients, not_finite
from crucible_train.ports import CustomLoss, CustomLossFn
from crucible_train.types import AdamParams, ForwardBackwardOutput, LossConfig, OptimStepOutput

if TYPE_CHECKING:
    from crucible_torch.trainer import _Pass, _Results

__all__ = ["Elsewhere", "ShardTrainer"]

FloatArray = NDArray[np.float32]
_LOWER = "micro_batch_tokens, max_length or head_rows"


class Elsewhere(TrainError):
    """Another process of the run has an error, and will say which."""


class ShardTrainer(Trainer):
    """A trainer that takes part in passes of all processes.

    A frozen base is spread over them, an adapter is whole in each and its gradients are added up before a step;
    in full fine-tuning weights, gradients and moments are all spread. Every process runs as many passes as the one
    with the most, and an error of the data does not keep it from them: all say at the end whether all went well.
    """

    model: ShardedModel

    def __init__(
        self, model: ShardedModel, adapter: Adapter | None, settings: EngineSettings, link: Link
    ) -> None:
        super().__init__(model, adapter, settings)
        self.link = link
        self._error: BaseException | None = None

    def forward(self, batches: Sequence[MicroBatch], loss: Loss, config: LossConfig) -> ForwardBackwardOutput:
        """As ``Trainer.forward`` of this process's share."""
        with self._together():
            return super().forward(self._even([_ungraded(batch) for batch in batches]), loss, config)

    def forward_backward(
        self, batches: Sequence[MicroBatch], loss: Loss, config: LossConfig
    ) -> ForwardBackwardOutput:
        """As ``Trainer.forward_backward`` of this process's share."""
        return super().forward_backward(self._even(batches), loss, config)

    def custom(self, batches: Sequence[MicroBatch], fn: CustomLossFn) -> ForwardBackwardOutput:
        """As ``Trainer.custom`` of this process's share; what ``fn`` raises is raised when all are through."""

        def guarded(data: Any, logprobs: Sequence[FloatArray]) -> CustomLoss:
            try:
                return fn(data, logprobs)
            except BaseException as error:  # noqa: BLE001 - raised again at the end of the call
                self._error = self._error or error
                zeros = [np.zeros_like(lp) for lp in logprobs]
                return CustomLoss(loss=0.0, gradients=zeros, metrics={})

        return super().custom(self._even(batches), guarded)

    def optim_step(self, params: AdamParams) -> OptimStepOutput:
        """One AdamW step, the same everywhere or nowhere."""
        grads = self.gradients.take()
        if not grads:
            raise no_gradients()
        with self.link.unison():
            if self.adapter is not None:
                self._add_up(grads)
            wrong = next((name for name, grad in grads.items() if not bool(torch.isfinite(grad).all())), None)
            anywhere = self.link.most(int(wrong is not None)) != (0,)
        if anywhere:
            raise not_finite(wrong) if wrong is not None else _elsewhere()
        with self.link.unison():
            norm = gradient_norm(grads)
            if self.adapter is None:
                squares = torch.tensor(norm, dtype=torch.float64, device=self.model.device).square()
                self.link.sum(squares)
                norm = float(squares.sqrt())
            self.optimizer.step(grads, params, norm=norm)
            self.weights.publish()
        return OptimStepOutput(metrics={"unclipped_grad_l2:mean": norm})

    def values(self) -> Mapping[str, torch.Tensor]:
        """Whole weights in the memory of the leader's machine; empty elsewhere. All processes take part."""
        return self._whole(self.weights.masters)

    def moments(self) -> Mapping[str, torch.Tensor]:
        """As ``values``, of the optimiser."""
        return self._whole(self.optimizer.state())

    def restore(self, saved: Saved) -> None:
        """Each process reads its own part of the folder; the number of those that wrote it does not matter."""
        if self.adapter is not None:
            super().restore(saved)
            return
        import torch.distributed.checkpoint

        checkpoint: Any = torch.distributed.checkpoint  # its names are not declared as exported
        wanted = dict(self.weights.masters)
        if saved.moments is None:
            self.optimizer.reset()
        else:
            wanted |= self.optimizer.state()
        reader = checkpoint.HuggingFaceStorageReader(path=str(saved.folder))
        parts = {name: self._spread(name, part) for name, part in wanted.items()}
        with self.link.unison(), torch.no_grad():
            try:
                checkpoint.load(parts, storage_reader=reader)
            except checkpoint.CheckpointException as error:
                raise IntegrityError(
                    what=f"a process cannot read its part ({error})",
                    where=str(saved.folder),
                    remedy="let every process see the folder, then resume",
                ) from error
        self.optimizer.steps = saved.steps
        self.weights.publish()
        self.gradients.take()

    def _whole(self, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.adapter is not None:
            return dict(parts) if self.link.world.leads else {}
        whole: dict[str, torch.Tensor] = {}
        for name, part in parts.items():
            with self.link.unison(), torch.no_grad():
                tensor = self._spread(name, part).full_tensor()
            if self.link.world.leads:
                whole[name] = tensor.cpu()
        return whole

    def _spread(self, name: str, part: torch.Tensor) -> DTensor:
        """This process's part of a weight or of one of its moments, as part of the whole."""
        stem, _, moment = name.rpartition(".")
        leaf: Any = self.weights.leaves[stem if moment in MOMENTS else name]
        return DTensor.from_local(
            part, leaf.device_mesh, leaf.placements, run_check=False, shape=leaf.shape, stride=leaf.stride()
        )

    def _add_up(self, grads: Mapping[str, torch.Tensor]) -> None:
        flat = torch.cat([grad.reshape(-1) for grad in grads.values()])
        self.link.sum(flat)
        sizes = [grad.numel() for grad in grads.values()]
        for grad, total in zip(grads.values(), torch.split(flat, sizes), strict=True):
            grad.copy_(total.view_as(grad))

    def packed(
        self, examples: Sequence[Example], graded: Callable[[Example], bool] | None
    ) -> list[MicroBatch]:
        """This process's share of the examples as micro-batches."""
        return micro_batches(
            examples,
            self._settings.tokens_per_pass(self.model.device.type),
            graded,
            share_prefixes=self._settings.share_prefixes,
        )

    def _even(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """As many batches with a gradient, and without, as the process has that has the most."""
        graded = [batch for batch in batches if batch.graded]
        others = [batch for batch in batches if not batch.graded]
        most_graded, most_others = self.link.most(len(graded), len(others))
        graded += [idle_batch(graded=True) for _ in range(most_graded - len(graded))]
        others += [idle_batch(graded=False) for _ in range(most_others - len(others))]
        return [*graded, *others]

    @contextmanager
    def _together(self) -> Iterator[None]:
        """A call of all processes: it went well where all say so."""
        self._error = None
        with self.link.unison():
            yield
            self.model.reshard()
            failed = self.link.most(int(self._error is not None)) != (0,)
        if failed:
            raise self._error or _elsewhere()

    @contextmanager
    def _call(self) -> Iterator[None]:
        try:
            with self._together(), self.model.using(self.adapter), memory_errors(_LOWER):
                yield
        except BaseException:
            self.gradients.discard()
            raise
        self.gradients.commit()

    def _finish(
        self,
        step: _Pass,
        results: _Results,
        value: Callable[[Example, FloatArray], float],
        coefficients: Coefficients | None = None,
        pieces: Sequence[slice] | None = None,
    ) -> torch.Tensor | None:
        try:
            return super()._finish(step, results, value, coefficients, pieces)
        except CrucibleError as error:
            self._error = self._error or error
            return torch.zeros_like(step.states)

    def _backward(self, step: _Pass, grads: torch.Tensor | None) -> None:
        """Always: the others wait for this process's part in it."""
        if self.adapter is None:
            self.model.complete_gradients()
        if grads is not None and step.states.requires_grad:
            backward_from(step.states, grads)
        self.gradients.collect()


def _ungraded(batch: MicroBatch) -> MicroBatch:
    return replace(batch, graded=False)


def _elsewhere() -> Elsewhere:
    return Elsewhere(what="another process has an error", where="local engine", remedy="read its message")
