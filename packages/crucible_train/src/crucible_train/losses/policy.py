"""Policy-gradient losses over sampled tokens: importance sampling, PPO, CISPO, DRO, GSPO.

With lp the log-probability under the policy in training, q under the sampler, A the advantage and
r = e^(lp − q), each is a sum over tokens, never a mean. A token whose advantage is 0 has no part in any but
DRO, whatever its ratio. Array suffix: T tokens of one datum.

Source: the loss page of the Tinker documentation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import ConfigError, DataError
from crucible_train.losses.value import LossValue

__all__ = ["cispo", "dro", "gspo", "importance_sampling", "ppo"]

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]


def importance_sampling(logprobs_T: Floats, sampled_T: Floats, advantages_T: Floats) -> LossValue:
    """−Σ r·A and its gradient −r·A.

    Raises:
        DataError: the shapes differ, or there are several targets per position.
    """
    lp, q, adv = _read("importance_sampling", logprobs_T, logprobs=sampled_T, advantages=advantages_T)
    terms = _times(_ratio(lp - q), adv)
    return LossValue(loss=-float(terms.sum()), gradient=-terms)


def ppo(
    logprobs_T: Floats,
    sampled_T: Floats,
    advantages_T: Floats,
    *,
    clip_low_threshold: float = 0.8,
    clip_high_threshold: float = 1.2,
) -> LossValue:
    """−Σ min(r·A, clip(r, low, high)·A); the gradient is −r·A where the first is the smaller, else 0.

    Raises:
        DataError: as ``importance_sampling``.
        ConfigError: not 0 ≤ low ≤ high.
    """
    lp, q, adv = _read("ppo", logprobs_T, logprobs=sampled_T, advantages=advantages_T)
    return _clipped(_ratio(lp - q), adv, _bounds("ppo", clip_low_threshold, clip_high_threshold))


def cispo(
    logprobs_T: Floats,
    sampled_T: Floats,
    advantages_T: Floats,
    *,
    clip_low_threshold: float = 0.0,
    clip_high_threshold: float = 4.0,
) -> LossValue:
    """−Σ c·lp·A with c = clip(r, low, high) held constant; the gradient is −c·A.

    Raises:
        DataError: as ``importance_sampling``.
        ConfigError: not 0 ≤ low ≤ high.
    """
    lp, q, adv = _read("cispo", logprobs_T, logprobs=sampled_T, advantages=advantages_T)
    low, high = _bounds("cispo", clip_low_threshold, clip_high_threshold)
    slopes = _times(np.clip(_ratio(lp - q), low, high), adv)
    return LossValue(loss=-float(_times(lp, slopes).sum()), gradient=-slopes)


def dro(
    logprobs_T: Floats,
    sampled_T: Floats,
    advantages_T: Floats,
    *,
    beta: float,
    mask_T: Floats | None = None,
) -> LossValue:
    """−Σ (lp·A − ½β(lp − q)²); the gradient is −(A − β(lp − q)).

    The second term pulls at every token, also at those of the prompt, whose q is 0 by convention: give
    ``mask_T`` (0 or 1) to count sampled tokens alone. The documentation knows no mask.

    Raises:
        DataError: as ``importance_sampling``.
        ConfigError: β is negative or not finite.
    """
    if not (np.isfinite(beta) and beta >= 0):
        raise ConfigError(
            what=f"beta = {beta}", where="loss_config.beta", remedy="give a number ≥ 0, say 0.05"
        )
    mask = np.ones(np.shape(sampled_T)) if mask_T is None else mask_T
    given = {"logprobs": sampled_T, "advantages": advantages_T, "mask": mask}
    lp, q, adv, counted = _read("dro", logprobs_T, **given)
    gap = np.where(counted != 0, lp - q, 0.0)
    adv = _times(adv, counted)
    value = _times(lp, adv) - 0.5 * beta * gap**2
    return LossValue(loss=-float(value.sum()), gradient=-(adv - beta * gap))


def gspo(
    logprobs_T: Floats,
    sampled_T: Floats,
    advantages_T: Floats,
    sequence_ratio_mask_T: Floats,
    *,
    clip_low_threshold: float = 0.8,
    clip_high_threshold: float = 1.2,
) -> LossValue:
    """−Σ min(s·A, clip(s, low, high)·A) with one ratio s per sequence, e^(mean of lp − q over the mask).

    GSPO-token: a token's gradient is −s·A where the first is the smaller, else 0; the part of s that the other
    tokens have is held constant. Defaults of the bounds are PPO's.

    Raises:
        DataError: as ``importance_sampling``, or an empty mask while some advantage is not 0.
        ConfigError: not 0 ≤ low ≤ high.
    """
    given = {"logprobs": sampled_T, "advantages": advantages_T, "sequence_ratio_mask": sequence_ratio_mask_T}
    lp, q, adv, mask = _read("gspo", logprobs_T, **given)
    bounds = _bounds("gspo", clip_low_threshold, clip_high_threshold)
    if not mask.any():
        if adv.any():
            raise DataError(
                what="sequence_ratio_mask is 0 everywhere while some advantages are not",
                where="gspo.sequence_ratio_mask",
                remedy="set it to 1 at the sampled tokens",
            )
        return LossValue(loss=0.0, gradient=np.zeros_like(lp))
    mean = float(_times(lp - q, mask).sum() / mask.sum())
    return _clipped(np.full_like(lp, _ratio(np.float64(mean))), adv, bounds)


def _read(loss: str, logprobs_T: Floats, **given: Floats) -> tuple[Doubles, ...]:
    if logprobs_T.ndim != 1:
        raise DataError(
            what=f"logprobs of shape {logprobs_T.shape}",
            where=f"{loss}.target_tokens",
            remedy="give one target per position, (N,); only cross_entropy takes (N, K)",
        )
    for name, array in given.items():
        if array.shape != logprobs_T.shape:
            raise DataError(
                what=f"{name} of shape {array.shape} for targets of shape {logprobs_T.shape}",
                where=f"{loss}.{name}",
                remedy="give one entry per target token",
            )
    return tuple(array.astype(np.float64) for array in (logprobs_T, *given.values()))


def _bounds(loss: str, low: float, high: float) -> tuple[float, float]:
    if not 0 <= low <= high:
        raise ConfigError(
            what=f"{loss}: clip_low_threshold = {low}, clip_high_threshold = {high}",
            where="loss_config.clip_low_threshold",
            remedy="they bound the ratio itself: give 0 ≤ low ≤ high, such as 0.8 and 1.2",
        )
    return low, high


def _ratio(difference: Doubles | np.float64) -> Doubles:
    """e^difference; infinite where it is beyond float64."""
    with np.errstate(over="ignore"):
        found: Doubles = np.exp(difference)
    return found


def _times(left: Doubles, right: Doubles) -> Doubles:
    """The product, 0 wherever ``right`` is 0, even against infinity."""
    counted = right != 0
    return np.where(counted, left, 0.0) * right


def _clipped(ratio_T: Doubles, advantages_T: Doubles, bounds: tuple[float, float]) -> LossValue:
    free = _times(ratio_T, advantages_T)
    held = _times(np.clip(ratio_T, *bounds), advantages_T)
    return LossValue(loss=-float(np.minimum(free, held).sum()), gradient=-np.where(free <= held, free, 0.0))
