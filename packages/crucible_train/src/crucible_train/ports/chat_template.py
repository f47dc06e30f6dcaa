"""The port of a tokenizer that brings a chat template; a tokenizer without one need not have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

__all__ = ["ChatTemplated", "TemplateCall", "TemplateText"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateCall:
    """One conversation to write: messages and tools in the JSON form that templates read."""

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    add_generation_prompt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateText:
    """What the template wrote, or why it wrote nothing.

    ``generated`` are stretches (first character, one past the last) that the template itself marks as written
    by the model; None where it has no such marks. ``error`` is None unless the template refused.
    """

    text: str = ""
    generated: tuple[tuple[int, int], ...] | None = None
    error: str | None = None


@runtime_checkable
class ChatTemplated(Protocol):
    """A tokenizer with a chat template, which comes from outside and is run where it can do no harm.

    Its ``all_special_ids`` are all that ``encode(…, allow_special=True)`` finds by name in a text.
    """

    @property
    def chat_template(self) -> str | None:
        """The template's source, or None if the tokenizer has none; all of them where it has several."""
        ...

    def render_chats(
        self, calls: Sequence[TemplateCall], *, current_date: str | None = None
    ) -> list[TemplateText]:
        """What the template writes for each call; a template that fails or does not end gives errors.

        ``current_date`` (YYYY-MM-DD) is the day that the template is told; None tells it of no day.
        """
        ...
