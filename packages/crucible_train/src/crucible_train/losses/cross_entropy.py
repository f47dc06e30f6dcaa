"""Cross-entropy: −Σ w·lp over tokens, never a mean.

Source: the loss page of the Tinker documentation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import DataError
from crucible_train.losses.value import LossValue

__all__ = ["cross_entropy"]


def cross_entropy(logprobs: NDArray[np.floating], weights: NDArray[np.floating]) -> LossValue:
    """−Σ w·lp and −w, for one target per position (N,) or K weighted targets (N, K).

    Raises:
        DataError: the shapes differ.
    """
    if logprobs.shape != weights.shape:
        raise DataError(
            what=f"weights of shape {weights.shape} for logprobs of shape {logprobs.shape}",
            where="cross_entropy.weights",
            remedy="give one weight per target token",
        )
    w = weights.astype(np.float64)
    return LossValue(loss=-float(np.sum(w * logprobs.astype(np.float64))), gradient=-w)
