"""What some renderers need besides a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from crucible_train.renderers.message import ImagePart

__all__ = ["ImageProcessor", "RendererOptions"]


@runtime_checkable
class ImageProcessor(Protocol):
    """Knows how many positions a model gives to an image."""

    def count_positions(self, image: ImagePart) -> int:
        """Positions (≥ 1) that ``image`` takes in the model's input."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RendererOptions:
    """``images`` for vision formats; ``current_date`` (YYYY-MM-DD) for formats whose system message names the day.

    The date is never taken from a clock: a run must not depend on the day it is repeated.
    """

    images: ImageProcessor | None = None
    current_date: str | None = None
