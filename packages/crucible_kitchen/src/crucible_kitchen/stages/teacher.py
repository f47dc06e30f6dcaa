"""The teacher of a distillation: a sampler with the chat format it speaks."""

from __future__ import annotations

from dataclasses import dataclass

from crucible_train.ports import SamplingClient
from crucible_train.renderers import Renderer

__all__ = ["Teacher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A model that answers; ``digest`` covers its weights and its renderer."""

    name: str
    digest: str
    sampler: SamplingClient
    renderer: Renderer
