"""Inputs and outputs of the operations on renderers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from crucible_ir import Contract
from crucible_train.renderers import TrainOnWhat

__all__ = [
    "CheckedConversation",
    "CheckedSequence",
    "GivenConversation",
    "RenderCheck",
    "RenderReport",
    "RenderRequest",
    "RenderedConversation",
    "RenderedConversations",
    "ShownToken",
    "Verdict",
]

Verdict = Literal["equal", "different", "renderer_refuses", "template_refuses", "both_refuse"]


class GivenConversation(Contract):
    """A conversation in the JSON form of chat datasets."""

    messages: tuple[dict[str, Any], ...] = Field(min_length=1)
    tools: tuple[dict[str, Any], ...] = ()
    """Tools on offer: name, description, and the JSON Schema of the parameters."""
    name: str = ""


class RenderRequest(Contract):
    """Which renderer over which model's tokenizer, and what it is to write."""

    model: str = Field(min_length=1)
    """Folder or hub id; ``tiny`` is the bundled model."""
    renderer: str | None = None
    """None takes the one that belongs to the model."""
    conversations: tuple[GivenConversation, ...] = Field(default=(), max_length=1000)
    """None given: the built-in ones."""
    train_on_what: TrainOnWhat = TrainOnWhat.ALL_ASSISTANT_MESSAGES
    current_date: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    """The day for formats that name one."""
    manifest: str = "offline"


class RenderCheck(RenderRequest):
    """Which renderer to hold against the tokenizer's own chat template."""

    train_on_what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_MESSAGE


class ShownToken(Contract):
    """A token: its id, what it adds to the text, and its loss weight."""

    id: int
    text: str
    weight: float = 0.0


class CheckedSequence(Contract):
    """The example or the prompt, by renderer and template.

    Tokens are those around the first difference; where there is none, all of the renderer's.
    """

    part: Literal["example", "prompt"]
    equal: bool
    at: int | None = None
    """Position of the first difference."""
    from_position: int = 0
    """Position of the first token that is given here."""
    renderer: tuple[ShownToken, ...] = ()
    template: tuple[ShownToken, ...] = ()


class CheckedConversation(Contract):
    """One conversation's verdict; ``reason`` says why one side refused."""

    name: str
    verdict: Verdict
    reason: str = ""
    sequences: tuple[CheckedSequence, ...] = ()


class RenderReport(Contract):
    """What a renderer and a template made of the same conversations."""

    model: str
    renderer: str
    equal: bool
    """No conversation was written differently, and one at least was written by both."""
    conversations: tuple[CheckedConversation, ...]


class RenderedConversation(Contract):
    """One conversation's tokens; none where the renderer refuses it, for ``reason``."""

    name: str
    tokens: tuple[ShownToken, ...] = ()
    reason: str = ""


class RenderedConversations(Contract):
    """What a renderer made of conversations."""

    model: str
    renderer: str
    conversations: tuple[RenderedConversation, ...]
