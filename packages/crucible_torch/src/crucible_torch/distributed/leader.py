"""The first process: it has the run, hands out the work of each call and puts the answers together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from crucible_torch.adapter import Adapter
from crucible_torch.distributed.link import Link
from crucible_torch.distributed.messages import Message, error_of, with_data
from crucible_torch.distributed.sharding import ShardedModel, balanced
from crucible_torch.distributed.trainer import Elsewhere, ShardTrainer
from crucible_torch.losses import Loss
from crucible_torch.model import LoadedModel
from crucible_torch.packing import Example, MicroBatch
from crucible_torch.settings import EngineSettings
from crucible_torch.trainer import Saved, checked
from crucible_train.ports import CustomLoss, CustomLossFn
from crucible_train.types import AdamParams, ForwardBackwardOutput, LossConfig, OptimStepOutput, TensorData

__all__ = ["LeadTrainer"]

FloatArray = NDArray[np.float32]
T = TypeVar("T")


class LeadTrainer(ShardTrainer):
    """The trainer of the first process; every method is a command that all processes carry out."""

    def __init__(
        self,
        model: ShardedModel,
        adapter: Adapter | None,
        settings: EngineSettings,
        link: Link,
        *,
        client: int,
    ) -> None:
        super().__init__(model, adapter, settings, link)
        self._client = client

    def forward(self, batches: Sequence[MicroBatch], loss: Loss, config: LossConfig) -> ForwardBackwardOutput:
        """As ``Trainer.forward``, whatever process has an example."""
        shares = self._shares(batches)
        self._hand_out(shares, {"op": "forward", "loss": loss.name, "config": dict(config)})
        mine = self._packed(shares[0], None)
        return self._put_together(shares, lambda: ShardTrainer.forward(self, mine, loss, config))

    def forward_backward(
        self, batches: Sequence[MicroBatch], loss: Loss, config: LossConfig
    ) -> ForwardBackwardOutput:
        """As ``Trainer.forward_backward``, whatever process has an example."""
        shares = self._shares(batches)
        self._hand_out(shares, {"op": "forward_backward", "loss": loss.name, "config": dict(config)})
        mine = self._packed(shares[0], loss)
        return self._put_together(shares, lambda: ShardTrainer.forward_backward(self, mine, loss, config))

    def custom(self, batches: Sequence[MicroBatch], fn: CustomLossFn) -> ForwardBackwardOutput:
        """As ``Trainer.custom``; ``fn`` runs here, over the log-probabilities of all."""
        shares = self._shares(batches)
        self._hand_out(shares, {"op": "custom"})
        mine = self._packed(shares[0], None)

        def over_all(data: Any, logprobs: Sequence[FloatArray]) -> CustomLoss:
            return self._loss_over_all(shares, logprobs, fn)

        return self._put_together(shares, lambda: ShardTrainer.custom(self, mine, over_all))

    def optim_step(self, params: AdamParams) -> OptimStepOutput:
        """As ``Trainer.optim_step``, everywhere."""
        self._command({"op": "optim_step", "params": asdict(params)})
        return self._answered(lambda: ShardTrainer.optim_step(self, params))

    def values(self) -> Mapping[str, torch.Tensor]:
        """All weights, gathered here."""
        self._command({"op": "values"})
        return self._answered(lambda: ShardTrainer.values(self))

    def moments(self) -> Mapping[str, torch.Tensor]:
        """The optimiser's state, gathered here."""
        self._command({"op": "moments"})
        return self._answered(lambda: ShardTrainer.moments(self))

    def restore(self, saved: Saved) -> None:
        """As ``Trainer.restore``; each process reads the folder, which all of them must see."""
        self._command(
            {
                "op": "restore",
                "folder": str(saved.folder),
                "moments": saved.moments is not None,
                "steps": saved.steps,
            }
        )
        self._answered(lambda: ShardTrainer.restore(self, saved))

    def snapshot(self) -> tuple[LoadedModel, Adapter | None]:
        """The whole model in this process, which samples alone while the others wait."""
        whole = self.model.open_copy()
        if self.adapter is not None:
            return whole, self.adapter.copy()
        values = self.values()
        with torch.no_grad():
            for name, weight in whole.module.named_parameters():
                weight.copy_(values[name])
        return whole, None

    def drop(self) -> None:
        """Let the other processes forget this client."""
        if not self.link.broken:
            self._command({"op": "drop"})
            self._answered(lambda: None)

    def _shares(self, batches: Sequence[MicroBatch]) -> list[list[Example]]:
        examples = sorted((e for batch in batches for e in batch.examples), key=lambda e: e.index)
        parts = balanced([example.length for example in examples], self.link.world.size)
        return [[examples[place] for place in part] for part in parts]

    def _packed(self, share: Sequence[Example], loss: Loss | None) -> list[MicroBatch]:
        return self.packed(share, None if loss is None else loss.graded)

    def _command(self, values: Mapping[str, Any]) -> None:
        self.link.tell_all(Message(values={**values, "client": self._client}))

    def _hand_out(self, shares: Sequence[Sequence[Example]], values: Mapping[str, Any]) -> None:
        for rank in self.link.followers:
            data = [(example.index, example.datum) for example in shares[rank]]
            self.link.tell(rank, with_data({**values, "client": self._client}, data))

    def _loss_over_all(
        self, shares: Sequence[Sequence[Example]], mine: Sequence[FloatArray], fn: CustomLossFn
    ) -> CustomLoss:
        """Ask for the others' log-probabilities, call ``fn``, and give them their gradients, or word that it failed."""
        found = [
            (example, np.asarray(lp, dtype=np.float32).reshape(example.targets.shape))
            for example, lp in zip(shares[0], mine, strict=True)
        ]
        for rank in self.link.followers:
            found += _pairs(shares[rank], self.link.answer(rank))
        found.sort(key=lambda pair: pair[0].index)
        try:
            result = fn([e.datum for e, _ in found], [e.shaped(lp) for e, lp in found])
            slopes = checked(result, found, everywhere=self._settings.logprobs_at == "all")
        except BaseException:
            self.link.tell_all(Message(values={"failed": True}))
            raise
        for rank in self.link.followers:
            arrays = {f"{n}": e.shaped(slopes[e.index]) for n, e in enumerate(shares[rank])}
            self.link.tell(rank, Message(values={"failed": False}, arrays=arrays))
        own = [example.shaped(slopes[example.index]) for example in shares[0]]
        return CustomLoss(loss=result.loss, gradients=own, metrics=result.metrics)

    def _put_together(
        self, shares: Sequence[Sequence[Example]], work: Callable[[], ForwardBackwardOutput]
    ) -> ForwardBackwardOutput:
        """Outputs in the order of the data; metrics that are sums are added up, others are this process's."""
        with self._answers() as replies:
            own = work()
        outputs = {e.index: out for e, out in zip(shares[0], own.loss_fn_outputs, strict=True)}
        metrics = dict(own.metrics)
        summed = "surrogate_loss:sum" if "surrogate_loss:sum" in metrics else "loss:sum"
        for rank, reply in zip(self.link.followers, replies, strict=True):
            for example, logprobs in _pairs(shares[rank], reply):
                outputs[example.index] = {"logprobs": TensorData.of(example.shaped(logprobs))}
            metrics[summed] += reply.values["metrics"][summed]
        ordered = tuple(outputs[index] for index in sorted(outputs))
        return ForwardBackwardOutput(loss_fn_outputs=ordered, metrics=metrics)

    def _answered(self, work: Callable[[], T]) -> T:
        with self._answers():
            return work()

    @contextmanager
    def _answers(self) -> Iterator[list[Message]]:
        """Everybody's answer to the command, once this process has done its own part.

        Raises:
            CrucibleError: what went wrong here or, if nothing did, elsewhere.
        """
        replies: list[Message] = []
        failure: BaseException | None = None
        try:
            yield replies
        except BaseException as error:
            if self.link.broken:
                raise
            failure = error
        replies += [self.link.answer(rank) for rank in self.link.followers]
        told = [
            error_of(reply.values["error"], rank)
            for rank, reply in zip(self.link.followers, replies, strict=True)
            if "error" in reply.values
        ]
        if failure is None or (isinstance(failure, Elsewhere) and told):
            failure = told[0] if told else failure
        if failure is not None:
            raise failure


def _pairs(share: Sequence[Example], message: Message) -> list[tuple[Example, FloatArray]]:
    """Examples with the log-probabilities (N, K) that the process has found for them."""
    return [(e, message.arrays[f"{n}"].reshape(e.targets.shape)) for n, e in enumerate(share)]
