"""What a loss gives back: its value and its slope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LossValue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossValue:
    """A loss in nats and its gradient for the log-probabilities, float64 of their shape."""

    loss: float
    gradient: NDArray[np.float64]
