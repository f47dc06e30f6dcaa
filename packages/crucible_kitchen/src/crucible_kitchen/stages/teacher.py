"""The teacher of a distillation: a sampler, and the chat format it speaks."""

from __future__ import annotations

from dataclasses import dataclass

from crucible_ir import ConfigError
from crucible_train.ports import SamplingClient
from crucible_train.renderers import Renderer

__all__ = ["Teacher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A model that answers or scores; ``digest`` covers its weights, its tokenizer and its renderer."""

    name: str
    digest: str
    sampler: SamplingClient
    renderer: Renderer | None = None
    """How it is asked; None where it only scores text in the student's format."""

    def speaks(self) -> Renderer:
        """The renderer of a teacher that answers.

        Raises:
            ConfigError: it was opened to score alone.
        """
        if self.renderer is None:
            raise ConfigError(
                what=f"teacher {self.name!r} was opened without a chat format",
                where="load_teachers",
                remedy="set its option answers=true",
            )
        return self.renderer
