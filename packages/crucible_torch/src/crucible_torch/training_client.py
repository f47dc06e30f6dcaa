"""The training port over the engine: checks and packing at once, the rest on the engine's thread in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from crucible_ir.errors import ConflictError
from crucible_ir.refs import CheckpointRef
from crucible_torch.losses import Loss, find_loss
from crucible_torch.packing import MicroBatch, micro_batches, read_examples
from crucible_torch.sampling_client import TorchSamplingClient
from crucible_torch.saving import load_trainer, save_trainer
from crucible_torch.settings import EngineSettings
from crucible_torch.trainer import Trainer
from crucible_torch.worker import Worker
from crucible_train.ports import CustomLossFn, Handle, SamplingClient, Tokenizer, TrainingSpec
from crucible_train.types import AdamParams, Datum, ForwardBackwardOutput, LossConfig, OptimStepOutput

__all__ = ["TorchTrainingClient"]

T = TypeVar("T")


class TorchTrainingClient:
    """One set of trainable weights on the engine.

    ``forward_backward`` computes log-probabilities only where a weight is not zero and reports 0 elsewhere,
    unless the engine's ``logprobs_at`` is "all"; ``forward`` computes all of them.
    """

    def __init__(
        self,
        trainer: Trainer,
        spec: TrainingSpec,
        *,
        worker: Worker,
        settings: EngineSettings,
        tokenizer: Callable[[], Tokenizer],
    ) -> None:
        self._trainer: Trainer | None = trainer
        self._spec = spec
        self._worker = worker
        self._settings = settings
        self._tokenizer = tokenizer
        self._snapshots = 0
        self._last: Future[Any] | None = None

    def forward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        """Loss and log-probabilities only; leaves gradients as they are.

        Raises:
            ConfigError, DataError: data or loss that cannot be used; nothing is submitted then.
        """
        trainer, (batches, loss) = self._open(), self._prepared(data, loss_fn, loss_config)
        return self._submit(lambda: trainer.forward(batches, loss, loss_config or {}))

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        """Loss, log-probabilities, and gradients added to those that wait for ``optim_step``.

        A call that fails adds none.

        Raises:
            ConfigError, DataError: data or loss that cannot be used; nothing is submitted then.
        Raises (from the handle):
            TrainError: a loss that is not finite (the datum is named), or memory ran out.
        """
        trainer, (batches, loss) = self._open(), self._prepared(data, loss_fn, loss_config)
        return self._submit(lambda: trainer.forward_backward(batches, loss, loss_config or {}))

    def forward_backward_custom(
        self, data: Sequence[Datum], loss: CustomLossFn
    ) -> Handle[ForwardBackwardOutput]:
        """As ``forward_backward`` with a loss of the caller's, which runs on the engine's thread.

        Metrics are the caller's, ``loss:sum`` (the custom loss) and ``surrogate_loss:sum`` (Σ gradient·logprob).
        A datum with weights has log-probabilities, and may have gradients, where a weight is not zero.
        """
        trainer, batches = self._open(), self._packed(data, None)
        return self._submit(lambda: trainer.custom(batches, loss))

    def optim_step(self, params: AdamParams) -> Handle[OptimStepOutput]:
        """One AdamW step with the accumulated gradients, which it clears."""
        trainer = self._open()
        return self._submit(lambda: trainer.optim_step(params))

    def save_state(self, name: str) -> Handle[CheckpointRef]:
        """Weights, optimiser state and random state, complete on disk when the handle is done."""
        return self._save(name, with_optimizer=True)

    def save_weights_for_sampler(self, name: str) -> Handle[CheckpointRef]:
        """Weights alone, in the format that ``create_sampling_client`` and ``export`` read."""
        return self._save(name, with_optimizer=False)

    def load_state(self, ref: CheckpointRef, *, with_optimizer: bool = True) -> Handle[None]:
        """Put a saved state in place of the present one; waiting gradients are dropped.

        Raises (from the handle):
            IntegrityError: the checkpoint's bytes do not match its digests; present weights stay.
            NotFoundError: there is no such checkpoint.
            ConfigError: it belongs to another base model or has other shapes.
        """
        trainer = self._open()

        def work() -> None:
            rng = load_trainer(trainer, ref, with_optimizer=with_optimizer)
            self._snapshots = rng.get("snapshots", 0)

        return self._submit(work)

    def sampling_client(self) -> Handle[SamplingClient]:
        """A sampler over the weights as they are once all submitted work is done.

        It keeps a copy of the adapter, or of the whole model in full fine-tuning.
        """
        trainer = self._open()

        def work() -> SamplingClient:
            self._snapshots += 1
            model, adapter = trainer.snapshot()
            return TorchSamplingClient(
                model,
                adapter,
                worker=self._worker,
                settings=self._settings,
                tokenizer=self._tokenizer,
                entropy=(self._spec.seed, self._snapshots),
            )

        return self._submit(work)

    async def close(self) -> None:
        """Wait for submitted work and free what the client holds; closing twice is harmless."""
        trainer, self._trainer = self._trainer, None
        if trainer is not None:
            with suppress(ConflictError):  # a closed engine has dropped everything
                self._last = self._worker.future(trainer.drop)
        last, self._last = self._last, None
        if last is not None:
            waited = asyncio.wrap_future(last)
            await asyncio.wait([waited])
            waited.exception()  # its caller has it; asyncio would print one that nobody asked for

    def _save(self, name: str, *, with_optimizer: bool) -> Handle[CheckpointRef]:
        trainer = self._open()

        def work() -> CheckpointRef:
            rng = {"snapshots": self._snapshots}
            return save_trainer(trainer, self._spec, name, rng=rng, with_optimizer=with_optimizer)

        return self._submit(work)

    def _open(self) -> Trainer:
        if self._trainer is None:
            raise ConflictError(
                what="the training client is closed", where="TrainingClient", remedy="make a new one"
            )
        return self._trainer

    def _prepared(
        self, data: Sequence[Datum], loss_fn: str, config: LossConfig | None
    ) -> tuple[list[MicroBatch], Loss]:
        loss = find_loss(loss_fn)
        return self._packed(data, (loss, config or {})), loss

    def _packed(self, data: Sequence[Datum], loss: tuple[Loss, LossConfig] | None) -> list[MicroBatch]:
        model = self._open().model
        examples = read_examples(data, max_positions=model.max_positions, vocab_size=model.vocab_size)
        if loss is not None:
            loss[0].check(examples, loss[1])
        budget = self._settings.tokens_per_pass(model.device.type)
        return micro_batches(
            examples,
            budget,
            None if loss is None else loss[0].graded,
            share_prefixes=self._settings.share_prefixes,
        )

    def _submit(self, work: Callable[[], T]) -> Handle[T]:
        self._last = future = self._worker.future(work)
        return Handle(future)
