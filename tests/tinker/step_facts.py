"""Two recorded runs held against each other, optimiser step by optimiser step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from engine_record import Pass, RecordedRun, Step, tokens_of
from numpy.typing import NDArray
from side_by_side import Metrics

from crucible_train.losses import LOSSES
from crucible_train.types import Datum

__all__ = ["GRADIENT_WITHIN", "WITHIN", "beyond", "compared", "metrics_compared"]

WITHIN = 1e-4
"""Largest difference of a loss (relative to the run's largest), of a log-probability, an advantage or a weight
(absolute), and of a metric (relative where it is greater than 1). Tokens, names of losses and the optimiser's settings
must be equal."""

GRADIENT_WITHIN = 1e-3
"""Largest relative difference of a gradient's norm: where advantages of both signs cancel, rounding is left over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """One step: what is compared exactly, and what within the tolerance."""

    exact: dict[str, Any]
    batch: tuple[str, ...]
    """A digest of the tokens of each datum, in the order in which they were sent."""
    targets: NDArray[np.int64]
    """(positions of all datums, K), each position's targets in the order of their ids, datums in that of ``tokens``."""
    numbers: dict[str, NDArray[np.floating]]
    """Weights, advantages, log-probabilities and so on, in the same places."""
    loss: float
    gradient: float


def _facts(step: Step) -> _Facts:
    """Datums in the order of their digests, since members of a group are sent at the same time."""
    data = [datum for one in step.passes for datum in one.data]
    outputs = [one.output.result() for one in step.passes]
    logprobs = [array for output in outputs for array in output.logprobs]
    digests = [_digest(datum) for datum in data]
    order = sorted(range(len(data)), key=lambda i: digests[i])
    names = sorted({name for datum in data for name in datum.loss_fn_inputs} - {"target_tokens"})
    by_id = [np.argsort(_columns(datum.target_tokens), axis=1) for datum in data]

    def joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([np.take_along_axis(_columns(arrays[i]), by_id[i], axis=1) for i in order])

    numbers = {
        f"given {name}": joined([datum.loss_fn_inputs[name].array for datum in data]) for name in names
    }
    return _Facts(
        exact={
            "loss function": sorted({one.loss_fn for one in step.passes}),
            "its settings": sorted({_settings(one) for one in step.passes}),
            "optimiser": step.params,
            "tokens": sorted(digests),
            "loss inputs": names,
        },
        batch=tuple(digests),
        targets=joined([datum.target_tokens for datum in data]),
        numbers={**numbers, "log-probabilities": joined(logprobs)},
        loss=math.fsum(float(output.metrics["loss:sum"]) for output in outputs),
        gradient=float(step.output.result().metrics["unclipped_grad_l2:mean"]),
    )


def _settings(one: Pass) -> tuple[tuple[str, float], ...]:
    """What the loss works with: a side may name a default or leave it out."""
    return tuple(sorted({**LOSSES[one.loss_fn].defaults, **one.config}.items()))


def _columns(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(len(array), -1)


def _digest(datum: Datum) -> str:
    """Of the tokens and, where each position has one, of the targets."""
    targets, tokens = datum.target_tokens, np.asarray(tokens_of(datum.model_input), dtype=np.int64)
    alone = targets.tobytes() if targets.ndim == 1 else b""
    return hashlib.sha256(tokens.tobytes() + b"|" + alone).hexdigest()


def _apart(one: _Facts, other: _Facts) -> tuple[dict[str, float], int]:
    """Largest difference of each of the numbers, and the number of positions that have other targets.

    The last of a teacher's likeliest tokens may be another where two are equally likely but for rounding; the weights
    of such a position are then compared from the greatest to the least.
    """
    same = (one.targets == other.targets).all(axis=1)
    apart = {}
    for name, mine in one.numbers.items():
        yours = other.numbers[name]
        differences = np.abs(mine[same] - yours[same])
        if name == "given weights":
            ordered = np.abs(np.sort(mine[~same]) - np.sort(yours[~same]))
            differences = np.concatenate([differences, ordered])
        apart[name] = float(differences.max())
    return apart, int((~same).sum())


def beyond(apart: Mapping[str, float]) -> dict[str, float]:
    """The differences that are too large."""
    allowed = {"gradient": GRADIENT_WITHIN, "unclipped_grad_l2:mean": GRADIENT_WITHIN}
    return {what: found for what, found in apart.items() if not found <= allowed.get(what, WITHIN)}


def compared(theirs: RecordedRun, ours: RecordedRun) -> dict[str, Any]:
    """Figures of all steps, once everything that must be equal is.

    Raises:
        AssertionError: another number of steps, or a step whose tokens, loss, or optimiser differ.
    """
    assert len(theirs.steps) == len(ours.steps), (len(theirs.steps), len(ours.steps))
    assert theirs.base_model == ours.base_model
    assert theirs.lora == ours.lora, (theirs.lora, ours.lora)
    pairs = [(_facts(one), _facts(other)) for one, other in zip(theirs.steps, ours.steps, strict=True)]
    for number, (one, other) in enumerate(pairs):
        for what, value in one.exact.items():
            assert other.exact[what] == value, f"step {number}: {what}"
        for side in (one, other):
            numbers = [side.loss, side.gradient, *(array.sum() for array in side.numbers.values())]
            assert np.isfinite(numbers).all(), f"step {number}: not finite"
    losses = [one.loss for one, _ in pairs]
    largest = max(abs(loss) for loss in losses)
    assert largest > 0, "no step had a loss"
    steps = [_apart(one, other) for one, other in pairs]
    apart = {name: max(found[name] for found, _ in steps) for name in pairs[0][0].numbers}
    elsewhere, positions = sum(number for _, number in steps), sum(len(one.targets) for one, _ in pairs)
    assert elsewhere <= positions // 1000, f"{elsewhere} of {positions} positions have other targets"
    return {
        "optimiser_steps": len(pairs),
        "datums": sum(len(one.batch) for one, _ in pairs),
        "equal_batches": sum(one.exact["tokens"] == other.exact["tokens"] for one, other in pairs),
        "in_the_same_order": sum(one.batch == other.batch for one, other in pairs),
        "batches": hashlib.sha256(
            "\n".join(" ".join(one.exact["tokens"]) for one, _ in pairs).encode()
        ).hexdigest(),
        "loss_function": pairs[0][0].exact["loss function"],
        "losses": {"theirs": losses, "ours": [other.loss for _, other in pairs]},
        "positions": positions,
        "positions_with_other_targets": elsewhere,
        "bit_equal_losses": sum(one.loss == other.loss for one, other in pairs),
        "apart": {
            "loss": max(abs(one.loss - other.loss) for one, other in pairs) / largest,
            "gradient": max(
                abs(one.gradient - other.gradient) / max(one.gradient, 1e-9) for one, other in pairs
            ),
            **apart,
        },
    }


def metrics_compared(theirs: Metrics, ours: Metrics, leave: Mapping[str, str]) -> dict[str, Any]:
    """Figures of the metrics that both wrote at the same step; ``leave`` names what is not compared, and why."""
    apart: dict[str, float] = {}
    values, last = 0, {}
    for step in sorted(theirs.keys() & ours.keys()):
        for name in sorted(theirs[step].keys() & ours[step].keys()):
            if name.startswith("time/") or name in leave or f"{name}@{step}" in leave:
                continue
            one, other = theirs[step][name], ours[step][name]
            difference = abs(one - other) / max(1.0, abs(one))
            if math.isnan(difference):
                difference = 0.0 if math.isnan(one) and math.isnan(other) else math.inf
            apart[name] = max(apart.get(name, 0.0), difference)
            values += 1
            last[name] = [one, other]
    return {"values": values, "names": sorted(apart), "apart": apart, "final": last, "left_out": dict(leave)}
