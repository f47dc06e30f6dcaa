"""Direct preference optimisation: a loss over pairs of sequence log-probabilities.

Sources: Rafailov et al. 2023 (sigmoid), Mitchell 2023 (label smoothing), Azar et al. 2023 (ipo).
Array suffixes: P pairs, T tokens of one datum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import ConfigError, DataError
from crucible_train.ports import CustomLoss, CustomLossFn
from crucible_train.types import Datum

__all__ = ["DpoSettings", "DpoValue", "PairLoss", "dpo", "dpo_loss", "sequence_logprobs"]

Doubles = NDArray[np.float64]
Floats = NDArray[np.floating]

PairLoss = Literal["sigmoid", "ipo"]
"""``sigmoid``: −log σ(β·d); ``ipo``: (d − 1/(2β))², where d is the chosen reward minus the rejected, before β."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoSettings:
    """β, how sure the labels are, and the form of the loss.

    ``label_smoothing`` is the probability that a label is wrong: the loss becomes (1 − ε)·−log σ(z) + ε·−log σ(−z).

    Raises:
        ConfigError: β is not positive, ε is not in [0, ½), the form is unknown, or ε is set with ``ipo``.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    loss: PairLoss = "sigmoid"

    def __post_init__(self) -> None:
        if not (self.beta > 0 and np.isfinite(self.beta)):
            raise ConfigError(
                what=f"dpo_beta = {self.beta}", where="dpo_beta", remedy="give a number above 0"
            )
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(
                what=f"label_smoothing = {self.label_smoothing}",
                where="label_smoothing",
                remedy="give 0 ≤ label_smoothing < 0.5",
            )
        if self.loss not in get_args(PairLoss):
            raise ConfigError(
                what=f"no pair loss is called {self.loss!r}", where="loss", remedy="give 'sigmoid' or 'ipo'"
            )
        if self.loss == "ipo" and self.label_smoothing:
            raise ConfigError(
                what="ipo has no label smoothing",
                where="label_smoothing",
                remedy="set it to 0, or use sigmoid",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoValue:
    """The mean loss over pairs, its gradients for the sequence log-probabilities (P,), and metrics."""

    loss: float
    gradient_chosen: Doubles
    gradient_rejected: Doubles
    metrics: Mapping[str, float]


def dpo(
    chosen_P: Floats,
    rejected_P: Floats,
    reference_chosen_P: Floats,
    reference_rejected_P: Floats,
    settings: DpoSettings | None = None,
) -> DpoValue:
    """The loss of pairs, given the log-probability of each sequence under the policy and the reference.

    Metrics: ``dpo_loss``, ``accuracy`` (share of pairs whose chosen reward is strictly larger, so 0 where policy
    and reference are equal), ``chosen_reward`` and ``rejected_reward`` (β times the mean gain over the
    reference), ``margin`` (their difference).

    Raises:
        DataError: no pair, or arrays that are not of one length.
    """
    chosen = DpoSettings() if settings is None else settings
    arrays = (chosen_P, rejected_P, reference_chosen_P, reference_rejected_P)
    if chosen_P.ndim != 1 or not len(chosen_P) or any(a.shape != chosen_P.shape for a in arrays):
        raise DataError(
            what=f"log-probabilities of shapes {[a.shape for a in arrays]}",
            where="dpo",
            remedy="give four arrays (P,) of one length, with one pair at least",
        )
    won, lost, ref_won, ref_lost = (np.asarray(a, dtype=np.float64) for a in arrays)
    gain_won, gain_lost = won - ref_won, lost - ref_lost
    gap = gain_won - gain_lost
    value, slope = _ipo(gap, chosen) if chosen.loss == "ipo" else _sigmoid(gap, chosen)
    loss = float(value.mean())
    rewards = chosen.beta * float(gain_won.mean()), chosen.beta * float(gain_lost.mean())
    metrics = {
        "dpo_loss": loss,
        "accuracy": float((gain_won > gain_lost).mean()),
        "margin": chosen.beta * float(gap.mean()),
        "chosen_reward": rewards[0],
        "rejected_reward": rewards[1],
    }
    gradient = slope / len(gap)
    return DpoValue(loss=loss, gradient_chosen=gradient, gradient_rejected=-gradient, metrics=metrics)


def _sigmoid(gap_P: Doubles, settings: DpoSettings) -> tuple[Doubles, Doubles]:
    z, eps = settings.beta * gap_P, settings.label_smoothing
    value = np.logaddexp(0.0, -z)
    wrong = np.exp(-np.logaddexp(0.0, z))  # σ(−z), without overflow
    if not eps:
        return value, -settings.beta * wrong
    right = np.exp(-value)
    return (1 - eps) * value + eps * np.logaddexp(0.0, z), settings.beta * (eps * right - (1 - eps) * wrong)


def _ipo(gap_P: Doubles, settings: DpoSettings) -> tuple[Doubles, Doubles]:
    distance = gap_P - 1 / (2 * settings.beta)
    return distance**2, 2 * distance


def sequence_logprobs(data: Sequence[Datum], logprobs: Sequence[Floats]) -> Doubles:
    """Σ weight·logprob of each datum, float64; ``logprobs[i]`` is (N_i,).

    Raises:
        DataError: a number or a shape that differs from the data's.
    """
    if [lp.shape for lp in logprobs] != [datum.weights.shape for datum in data]:
        raise DataError(
            what=f"{len(logprobs)} arrays of log-probabilities that do not fit {len(data)} datums",
            where="sequence_logprobs",
            remedy="give one array per datum, of the shape of its weights",
        )
    found = [
        np.sum(datum.weights.astype(np.float64) * lp.astype(np.float64))
        for datum, lp in zip(data, logprobs, strict=True)
    ]
    return np.array(found, dtype=np.float64)


def dpo_loss(reference_P2: Floats, settings: DpoSettings | None = None) -> CustomLossFn:
    """A loss for ``forward_backward_custom`` over chosen, rejected, chosen, rejected ….

    ``reference_P2`` (P, 2) holds the log-probability of each pair's chosen and rejected sequence under the
    reference, as ``sequence_logprobs`` gives them. Adds ``num_pairs`` to the metrics.

    Raises (when called):
        DataError: the data are not the P pairs of the reference.
    """
    reference = np.asarray(reference_P2, dtype=np.float64)

    def loss(data: Sequence[Datum], logprobs: Sequence[NDArray[np.float32]]) -> CustomLoss:
        if reference.shape != (len(data) // 2, 2) or len(data) % 2:
            raise DataError(
                what=f"{len(data)} datums for reference log-probabilities of shape {reference.shape}",
                where="dpo_loss",
                remedy="give chosen and rejected in turn, and (P, 2) for the P pairs",
            )
        won, lost = sequence_logprobs(data, logprobs).reshape(-1, 2).T
        found = dpo(won, lost, reference[:, 0], reference[:, 1], settings)
        slopes = np.stack((found.gradient_chosen, found.gradient_rejected), axis=1).ravel()
        gradients = [slope * datum.weights for slope, datum in zip(slopes, data, strict=True)]
        return CustomLoss(
            loss=found.loss,
            gradients=gradients,
            metrics={**found.metrics, "num_pairs": float(len(reference))},
        )

    return loss
