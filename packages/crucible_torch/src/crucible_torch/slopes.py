"""Gradients of a loss for log-probabilities, piece by piece as these become known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from crucible_torch.packing import Example, Rows

__all__ = ["Gradient", "Slopes"]

FloatArray = NDArray[np.float32]
Gradient = Callable[[Example, FloatArray], FloatArray]
"""∂loss/∂logprobs (N, K) of an example with the log-probabilities (N, K)."""


class Slopes:
    """∂loss/∂logprobs at the rows of a micro-batch.

    A gradient is asked for with the log-probabilities that are known by then, 0 elsewhere: with those of the
    piece itself, of pieces before it and of what it was told.
    """

    def __init__(self, examples: Sequence[Example], rows: Rows, gradient: Gradient) -> None:
        self._examples = list(zip(examples, rows.spans, rows.places, strict=True))
        self._known = np.zeros(rows.targets.shape, dtype=np.float32)
        self._gradient = gradient

    def tell(self, part: slice, logprobs: torch.Tensor) -> None:
        """Let the log-probabilities (r, K) of these rows be known."""
        self._known[part] = logprobs.detach().cpu().numpy()

    def __call__(self, part: slice, logprobs: torch.Tensor) -> torch.Tensor:
        """Gradients (r, K) of the rows in ``part``, on the device of their log-probabilities (r, K)."""
        self.tell(part, logprobs)
        found = np.zeros(logprobs.shape, dtype=np.float32)
        for example, span, place in self._examples:
            first, last = max(span.start, part.start), min(span.stop, part.stop)
            if first >= last:
                continue
            width = example.targets.shape[1]
            known = np.zeros(example.targets.shape, dtype=np.float32)
            known[place] = self._known[span, :width]
            inside = place[first - span.start : last - span.start]
            found[first - part.start : last - part.start, :width] = self._gradient(example, known)[inside]
        return torch.from_numpy(found).to(logprobs.device)
