"""What is done on the engine's thread for one client: losses, gradients, optimiser steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from crucible_ir.errors import DataError, TrainError
from crucible_torch.adapter import Adapter, named_tensors
from crucible_torch.attention import PackedPlan
from crucible_torch.head import Coefficients, pieces_of, score
from crucible_torch.losses import Loss
from crucible_torch.memory import memory_errors
from crucible_torch.model import LoadedModel
from crucible_torch.optimizer import AdamW, gradient_norm
from crucible_torch.packing import Example, MicroBatch, Rows, rows_of, weighted_positions
from crucible_torch.seeding import backward_from
from crucible_torch.settings import EngineSettings
from crucible_torch.slopes import Gradient, Slopes
from crucible_torch.weights import Gradients, TrainableWeights
from crucible_train.ports import CustomLoss, CustomLossFn
from crucible_train.types import (
    AdamParams,
    ForwardBackwardOutput,
    LossConfig,
    OptimStepOutput,
    TensorData,
)

__all__ = ["Saved", "Trainer", "checked", "no_gradients", "not_finite"]

FloatArray = NDArray[np.float32]
_LOWER = "micro_batch_tokens, max_length or head_rows"


@dataclass(slots=True)
class _Pass:
    """One micro-batch on its way: hidden states of the chosen rows, with their graph if wanted.

    ``others`` are rows that no loss reads and whose log-probabilities are reported all the same, with their states.
    """

    batch: MicroBatch
    rows: Rows
    states: torch.Tensor
    targets: torch.Tensor
    others: tuple[Rows, torch.Tensor] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a checkpoint's folder holds: weights, and moments with their step count if they are wanted."""

    folder: Path
    values: Mapping[str, torch.Tensor]
    moments: Mapping[str, torch.Tensor] | None
    steps: int


class Trainer:
    """Trainable weights over a model, their waiting gradients and their optimiser."""

    def __init__(self, model: LoadedModel, adapter: Adapter | None, settings: EngineSettings) -> None:
        self.model = model
        self.adapter = adapter
        self._settings = settings
        self._head_rows = settings.rows_of_logits(model.vocab_size)
        leaves = dict(model.module.named_parameters()) if adapter is None else named_tensors(adapter.pairs)
        self.weights = TrainableWeights(leaves)
        self.gradients = Gradients(self.weights)
        self.optimizer = AdamW(self.weights.masters)

    def forward(self, batches: Sequence[MicroBatch], loss: Loss, config: LossConfig) -> ForwardBackwardOutput:
        """Losses and log-probabilities; gradients stay as they are."""
        results = _Results()
        with self.model.using(self.adapter), memory_errors(_LOWER):
            for batch in batches:
                step = self._start(batch, None, grad=False)
                self._finish(step, results, lambda e, lp: loss.term(e, lp, config).value)
        return results.output({})

    def forward_backward(
        self, batches: Sequence[MicroBatch], loss: Loss, config: LossConfig
    ) -> ForwardBackwardOutput:
        """As ``forward``, and the gradients of this call join those that wait for a step."""
        results = _Results()

        def gradient(example: Example, logprobs: FloatArray) -> FloatArray:
            return loss.term(example, logprobs, config).gradient

        def value(example: Example, logprobs: FloatArray) -> float:
            return loss.term(example, logprobs, config).value

        with self._call():
            for batch in batches:
                step = self._start(batch, loss.counted, grad=batch.graded)
                if not batch.graded:
                    self._finish(step, results, value)
                elif loss.reach == "nothing":
                    self._backward(step, self._finish(step, results, value, self._fixed(step, gradient)))
                else:
                    whole = loss.reach == "sequence"
                    slopes = Slopes(step.batch.examples, step.rows, gradient)
                    pieces = self._pieces(step, slopes) if whole else None
                    self._backward(step, self._finish(step, results, value, slopes, pieces))
        return results.output({})

    def custom(self, batches: Sequence[MicroBatch], fn: CustomLossFn) -> ForwardBackwardOutput:
        """A loss of the caller's over all log-probabilities of the call.

        One micro-batch keeps its graph between the two halves; several are run twice.
        """
        seen = _Results()
        everywhere = self._settings.logprobs_at == "all"
        counted = None if everywhere else weighted_positions
        with self._call():
            steps = []
            for batch in batches:
                step = self._start(batch, counted, grad=len(batches) == 1)
                self._finish(step, seen, lambda e, lp: 0.0)
                steps.append(step if len(batches) == 1 else None)
            ordered = seen.ordered()
            result = fn([e.datum for e, _ in ordered], [e.shaped(lp) for e, lp in ordered])
            slopes = checked(result, ordered, everywhere=everywhere)
            surrogate = 0.0
            for batch, kept in zip(batches, steps, strict=True):
                step = kept or self._start(batch, counted, grad=True)
                again = _Results()
                grads = self._finish(
                    step,
                    again,
                    lambda e, lp: float(np.sum(slopes[e.index] * lp, dtype=np.float64)),
                    self._fixed(step, lambda e, lp: slopes[e.index]),
                )
                surrogate += again.total()
                self._backward(step, grads)
        metrics = {**result.metrics, "surrogate_loss:sum": surrogate, "loss:sum": float(result.loss)}
        return seen.output(metrics)

    def optim_step(self, params: AdamParams) -> OptimStepOutput:
        """One AdamW step with the waiting gradients, which it clears.

        Raises:
            TrainError: nothing waits, or the gradients are not finite; the weights stay as they are.
        """
        grads = self.gradients.take()
        if not grads:
            raise no_gradients()
        norm = gradient_norm(grads)
        if not math.isfinite(norm):  # a sum of finite squares may be too large too
            name = next((n for n, grad in grads.items() if not bool(torch.isfinite(grad).all())), None)
            if name is not None:
                raise not_finite(name)
        self.optimizer.step(grads, params, norm=norm)
        self.weights.publish()
        return OptimStepOutput(metrics={"unclipped_grad_l2:mean": norm})

    def values(self) -> Mapping[str, torch.Tensor]:
        """All trainable weights in float32, whole."""
        return self.weights.masters

    def moments(self) -> Mapping[str, torch.Tensor]:
        """The optimiser's state, whole."""
        return self.optimizer.state()

    def restore(self, saved: Saved) -> None:
        """Put saved weights and optimiser state in place of the present ones; waiting gradients are dropped."""
        if saved.moments is None:
            self.optimizer.reset()
        else:
            self.optimizer.load(saved.moments, saved.steps)
        self.weights.load(saved.values)
        self.gradients.take()

    def snapshot(self) -> tuple[LoadedModel, Adapter | None]:
        """The weights as they are now, to sample with: a copy of the adapter, or of the whole model."""
        if self.adapter is None:
            return self.model.own_copy(), None
        return self.model, self.adapter.copy()

    def drop(self) -> None:
        """Give up what others hold for this trainer; alone, it holds everything itself."""
        return

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Gradients made inside count only if the block ends well."""
        try:
            with self.model.using(self.adapter), memory_errors(_LOWER):
                yield
        except BaseException:
            self.gradients.discard()
            raise
        self.gradients.commit()

    def _start(
        self, batch: MicroBatch, counted: Callable[[Example], NDArray[np.bool_]] | None, *, grad: bool
    ) -> _Pass:
        """The pass up to the hidden states of the rows that are ``counted``; all of them where that is None."""
        device = self.model.device
        rows = rows_of(batch, counted)
        with torch.set_grad_enabled(grad):
            hidden = self.model.hidden(
                torch.from_numpy(batch.tokens)[None].to(device),
                torch.from_numpy(batch.positions)[None].to(device),
                PackedPlan(batch.runs, batch.branches),
            )
            states = hidden[0].index_select(0, torch.from_numpy(rows.index).to(device))
        others = None
        if counted is not None and self._settings.logprobs_at == "all":
            left = rows_of(batch, lambda example: ~counted(example))
            others = left, hidden[0].detach().index_select(0, torch.from_numpy(left.index).to(device))
        return _Pass(batch, rows, states, torch.from_numpy(rows.targets).to(device), others)

    def _fixed(self, step: _Pass, gradient: Gradient) -> Coefficients:
        """Coefficients that no log-probability changes."""
        slopes = Slopes(step.batch.examples, step.rows, gradient)
        known = slopes(slice(0, len(step.rows.index)), torch.zeros(step.targets.shape))
        fixed = known.to(self.model.device)
        return lambda part, logprobs: fixed[part]

    def _pieces(self, step: _Pass, slopes: Slopes) -> list[slice]:
        """Whole sequences together; one that is longer than a piece has its log-probabilities told before."""
        head_rows = self._head_rows
        pieces: list[slice] = []
        for span in step.rows.spans:
            if span.stop - span.start > head_rows:
                states, targets = step.states[span], step.targets[span]
                parts = pieces_of(len(states), head_rows)
                logprobs, _ = score(self.model, states, targets, coefficients=None, pieces=parts)
                slopes.tell(span, logprobs)
                pieces += [slice(span.start + part.start, span.start + part.stop) for part in parts]
            elif pieces and span.stop - pieces[-1].start <= head_rows:
                pieces[-1] = slice(pieces[-1].start, span.stop)
            elif span.stop > span.start:
                pieces.append(span)
        return pieces

    def _finish(
        self,
        step: _Pass,
        results: _Results,
        value: Callable[[Example, FloatArray], float],
        coefficients: Coefficients | None = None,
        pieces: Sequence[slice] | None = None,
    ) -> torch.Tensor | None:
        logprobs, grads = score(
            self.model,
            step.states,
            step.targets,
            coefficients=coefficients,
            pieces=pieces_of(len(step.states), self._head_rows) if pieces is None else pieces,
        )
        results.add(step, logprobs.detach().cpu().numpy(), value, self._reported(step))
        return grads

    def _reported(self, step: _Pass) -> FloatArray | None:
        """Log-probabilities of the rows that no loss reads; the head's forward pass alone is paid for them."""
        if step.others is None:
            return None
        rows, states = step.others
        targets = torch.from_numpy(rows.targets).to(states.device)
        pieces = pieces_of(len(states), self._head_rows)
        found: FloatArray = (
            score(self.model, states, targets, coefficients=None, pieces=pieces)[0].cpu().numpy()
        )
        return found

    def _backward(self, step: _Pass, grads: torch.Tensor | None) -> None:
        if grads is not None and step.states.requires_grad and step.states.shape[0]:
            backward_from(step.states, grads)
        self.gradients.collect()


class _Results:
    """Log-probabilities (N, K) and values of examples as they come, handed out in the order of the data."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Example, FloatArray, float]] = {}

    def add(
        self,
        step: _Pass,
        logprobs: FloatArray,
        value: Callable[[Example, FloatArray], float],
        others: FloatArray | None,
    ) -> None:
        for index, example in enumerate(step.batch.examples):
            full = np.zeros_like(example.targets, dtype=np.float32)
            step.rows.spread(index, logprobs, full)
            amount = value(example, full)
            if not np.isfinite(amount):
                raise TrainError(
                    what=f"the loss of the datum is {amount}",
                    where=f"data[{example.index}]",
                    remedy="lower learning_rate, set grad_clip_norm, or look at this datum's weights",
                )
            if step.others is not None and others is not None:
                step.others[0].spread(index, others, full)
            self._found[example.index] = (example, full, amount)

    def ordered(self) -> list[tuple[Example, FloatArray]]:
        return [self._found[index][:2] for index in sorted(self._found)]

    def total(self) -> float:
        return float(sum(self._found[index][2] for index in sorted(self._found)))

    def output(self, metrics: dict[str, float]) -> ForwardBackwardOutput:
        outputs = tuple({"logprobs": TensorData.of(e.shaped(lp))} for e, lp in self.ordered())
        return ForwardBackwardOutput(loss_fn_outputs=outputs, metrics=metrics or {"loss:sum": self.total()})


def checked(
    result: CustomLoss, ordered: Sequence[tuple[Example, FloatArray]], *, everywhere: bool
) -> dict[int, FloatArray]:
    """The custom gradients as float32 (N, K), by the place of the datum in the data.

    Raises:
        DataError: a number or a shape that does not fit, or a gradient where the datum's weight is 0.
        TrainError: a loss or gradient that is not finite.
    """
    if len(result.gradients) != len(ordered):
        raise DataError(
            what=f"{len(result.gradients)} gradients for {len(ordered)} datums",
            where="CustomLoss.gradients",
            remedy="return one array per datum",
        )
    slopes = {}
    for (example, logprobs), raw in zip(ordered, result.gradients, strict=True):
        where = f"CustomLoss.gradients[{example.index}]"
        slope = np.asarray(raw, dtype=np.float32)
        if slope.shape != example.shaped(logprobs).shape:
            raise DataError(
                what=f"shape {slope.shape} for log-probabilities of shape {example.shaped(logprobs).shape}",
                where=where,
                remedy="return ∂loss/∂logprobs in the shape of the log-probabilities",
            )
        slope = slope.reshape(logprobs.shape)
        if not np.isfinite(slope).all() or not np.isfinite(result.loss):
            raise TrainError(
                what="the custom loss or its gradient is not finite", where=where, remedy="look at its inputs"
            )
        unseen = None if everywhere or example.weights is None else ~example.weights.any(axis=1)
        if unseen is not None and (slope[unseen] != 0).any():
            raise DataError(
                what="a gradient at a position of weight 0, whose log-probability is not computed",
                where=where,
                remedy="give the datum a weight ≠ 0 there, or leave its weights out",
            )
        slopes[example.index] = slope
    return slopes


def no_gradients() -> TrainError:
    """An optimiser step that nothing waits for."""
    return TrainError(
        what="there are no gradients to apply",
        where="optim_step",
        remedy="call forward_backward first; a failed one leaves none",
    )


def not_finite(name: str) -> TrainError:
    """An optimiser step that would spoil the weights."""
    return TrainError(
        what=f"the gradient of {name} is not finite",
        where="optim_step",
        remedy="lower learning_rate, set grad_clip_norm, or train in float32",
    )
