"""How far policies are apart at sampled tokens, as a metric and as a part of the advantage.

Every function reads from datums ``logprobs`` (of the sampler) and ``mask`` (1 at sampled tokens). Sums and
means are over masked tokens of all datums, and NaN where there is none. Array suffixes: T
targets of one datum, D datums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import DataError
from crucible_train.rl.advantages import discounted_future_sum
from crucible_train.types import Datum, ModelInput, TensorData

__all__ = [
    "add_to_advantages",
    "incorporate_kl_penalty",
    "kl_sample_train",
    "log_ratios",
    "masked_mean",
    "post_kl",
    "scored_input",
    "target_logprobs",
]

FloatArray = NDArray[np.float32]
Floats = Sequence[NDArray[np.floating]]


def scored_input(datum: Datum) -> ModelInput:
    """The input and its last target: what a sampler scores to give a log-probability for every target."""
    return datum.model_input.append_int(int(datum.target_tokens[-1]))


def target_logprobs(prompt_logprobs: Sequence[float | None]) -> FloatArray:
    """Log-probabilities of the targets from those of ``scored_input``, whose first has none.

    Raises:
        DataError: one but the first is missing.
    """
    found = list(prompt_logprobs[1:])
    if None in found:
        raise DataError(
            what=f"no log-probability at position {found.index(None) + 1}",
            where="target_logprobs",
            remedy="score the input with a backend whose capabilities name prompt_logprobs",
        )
    return np.array(found, dtype=np.float32)


def log_ratios(data_D: Sequence[Datum], other_D: Floats) -> list[FloatArray]:
    """mask·(sampled − other) for each datum, (N,).

    Raises:
        DataError: a datum lacks ``logprobs`` or ``mask``, or the other log-probabilities do not fit it.
    """
    if len(data_D) != len(other_D):
        raise DataError(
            what=f"log-probabilities of {len(other_D)} datums for {len(data_D)}",
            where="log_ratios",
            remedy="give one array per datum",
        )
    found = []
    for index, (datum, other) in enumerate(zip(data_D, other_D, strict=True)):
        sampled, mask = _named(datum, "logprobs", index), _named(datum, "mask", index)
        if other.shape != sampled.shape:
            raise DataError(
                what=f"log-probabilities of shape {other.shape} for {sampled.shape}",
                where=f"log_ratios[{index}]",
                remedy="give one per target token (target_logprobs of scored_input)",
            )
        found.append(np.where(mask != 0, (sampled - other.astype(np.float32)) * mask, np.float32(0)))
    return found


def incorporate_kl_penalty(
    data_D: Sequence[Datum], base_D: Floats, *, coef: float, discount: float = 0.0
) -> tuple[list[Datum], Mapping[str, float]]:
    """A += coef·mask·(mean d − d) with d = sampled − base; with a discount, its discounted sum over the future.

    The sum runs over the whole datum, so that a discount also gives advantages to the tokens between turns and
    before the first, as upstream does. ``base_D[i]`` (N,) are the base policy's log-probabilities of the
    targets. Reports ``kl_policy_base``, the mean of d.

    Raises:
        DataError: as ``log_ratios``.
        ConfigError: a discount outside [0, 1].
    """
    ratios = log_ratios(data_D, base_D)
    mean = masked_mean(data_D, ratios)
    extra = [
        np.where(_chosen(datum, i) != 0, np.float32(coef) * (np.float32(mean) - ratio), np.float32(0))
        for i, (datum, ratio) in enumerate(zip(data_D, ratios, strict=True))
    ]
    return add_to_advantages(data_D, extra, discount), {"kl_policy_base": mean}


def add_to_advantages(data_D: Sequence[Datum], extra_D: Floats, discount: float = 0.0) -> list[Datum]:
    """Datums whose advantages are raised by ``extra_D``, or by its discounted sum over the future.

    Raises:
        DataError: a datum lacks ``advantages``.
        ConfigError: a discount outside [0, 1].
    """
    changed = []
    for index, (datum, extra) in enumerate(zip(data_D, extra_D, strict=True)):
        advantages = _named(datum, "advantages", index) + discounted_future_sum(extra, discount)
        inputs = {**datum.loss_fn_inputs, "advantages": TensorData(advantages.astype(np.float32))}
        changed.append(Datum(datum.model_input, inputs))
    return changed


def kl_sample_train(data_D: Sequence[Datum], training_D: Floats) -> Mapping[str, float]:
    """How the sampler q and the policy in training p differ: names as upstream's.

    ``optim/kl_sample_train_v1`` = mean(q − p), ``optim/kl_sample_train_v2`` = ½·mean((q − p)²), ``optim/entropy`` =
    −mean(q).

    Raises:
        DataError: as ``log_ratios``.
    """
    first, second = _moments(data_D, training_D)
    sampled = [_named(datum, "logprobs", i) * _chosen(datum, i) for i, datum in enumerate(data_D)]
    return {
        "optim/kl_sample_train_v1": first,
        "optim/kl_sample_train_v2": second,
        "optim/entropy": -masked_mean(data_D, sampled),
    }


def post_kl(data_D: Sequence[Datum], after_D: Floats) -> Mapping[str, float]:
    """How far an update moved the policy: ``kl_pre_post_v1`` and ``kl_pre_post_v2``, formulas as above.

    Raises:
        DataError: as ``log_ratios``.
    """
    first, second = _moments(data_D, after_D)
    return {"kl_pre_post_v1": first, "kl_pre_post_v2": second}


def masked_mean(data_D: Sequence[Datum], values_D: Floats) -> float:
    """Σ values over the number of masked tokens, NaN without any; the values must be 0 where the mask is."""
    total = sum(float(_chosen(datum, i).sum(dtype=np.float64)) for i, datum in enumerate(data_D))
    return sum(float(v.sum(dtype=np.float64)) for v in values_D) / total if total else math.nan


def _moments(data_D: Sequence[Datum], other_D: Floats) -> tuple[float, float]:
    ratios = log_ratios(data_D, other_D)
    return masked_mean(data_D, ratios), 0.5 * masked_mean(data_D, [ratio**2 for ratio in ratios])


def _chosen(datum: Datum, index: int) -> FloatArray:
    chosen: FloatArray = (_named(datum, "mask", index) != 0).astype(np.float32)
    return chosen


def _named(datum: Datum, name: str, index: int) -> FloatArray:
    tensor = datum.loss_fn_inputs.get(name)
    if tensor is None:
        raise DataError(
            what=f"datum has no {name!r}; it has {sorted(datum.loss_fn_inputs)}",
            where=f"data[{index}].loss_fn_inputs",
            remedy="build it with trajectory_to_data, and call this before inputs_for_loss",
        )
    return tensor.array.astype(np.float32, copy=False)
