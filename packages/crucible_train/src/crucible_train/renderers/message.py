"""Messages of a conversation: a role, content, tool calls, and whether to learn from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from crucible_train.renderers.errors import RenderError

__all__ = [
    "Content",
    "ContentPart",
    "ImagePart",
    "MarkupPart",
    "Message",
    "Role",
    "TextPart",
    "ThinkingPart",
    "ToolCall",
    "ToolCallPart",
    "ToolSpec",
    "UnparsedToolCall",
]

Role = str
"""``system``, ``user``, ``assistant``, ``tool``; other roles only where a renderer says so."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A stretch of text."""

    text: str


@dataclass(frozen=True, slots=True)
class MarkupPart(TextPart):
    """Text of a format's own, in which special tokens are special. Renderers make it; JSON cannot."""


@dataclass(frozen=True, slots=True)
class ThinkingPart:
    """Reasoning before an answer, without the marks that a format puts around it."""

    thinking: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePart:
    """An encoded image. Only bytes: nothing is ever fetched from an address."""

    data: bytes = field(repr=False)
    format: Literal["png", "jpeg"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool; ``arguments`` is the text of a JSON object."""

    name: str
    arguments: str = "{}"
    id: str | None = None

    def decoded_arguments(self) -> dict[str, Any]:
        """The arguments as a dictionary.

        Raises:
            RenderError: ``arguments`` is not the text of a JSON object.
        """
        try:
            value = json.loads(self.arguments)
        except json.JSONDecodeError as error:
            raise RenderError(
                what=f"arguments of the call of {self.name!r} are not JSON ({error})",
                where="ToolCall.arguments",
                remedy="give the text of a JSON object",
            ) from None
        if not isinstance(value, dict):
            raise RenderError(
                what=f"arguments of the call of {self.name!r} are a JSON {type(value).__name__}",
                where="ToolCall.arguments",
                remedy="give the text of a JSON object",
            )
        return value


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A tool call at its place among the parts; the same as one in ``Message.tool_calls`` if nothing follows."""

    call: ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class UnparsedToolCall:
    """What looked like a tool call in a model's answer and could not be read, and why."""

    raw_text: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool on offer: its name, what it does, and the JSON Schema of its parameters."""

    name: str
    description: str
    parameters: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Name, description and parameters, in this order."""
        return {"name": self.name, "description": self.description, "parameters": self.parameters}


ContentPart = TextPart | ThinkingPart | ImagePart | ToolCallPart
Content = str | tuple[ContentPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn's message.

    ``content`` is text, or parts in order. ``trainable`` belongs to ``TrainOnWhat.CUSTOMIZED`` and is
    None with every other mode. ``unparsed_tool_calls`` is set by ``parse_response`` alone.
    """

    role: Role
    content: Content
    tool_calls: tuple[ToolCall, ...] = ()
    unparsed_tool_calls: tuple[UnparsedToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    trainable: bool | None = None

    def __post_init__(self) -> None:
        if not self.role:
            raise RenderError(what="a message without a role", where="Message.role", remedy="name the role")
        if not isinstance(self.content, str):
            object.__setattr__(self, "content", tuple(self.content))

    @property
    def parts(self) -> tuple[ContentPart, ...]:
        """The content as parts; a text is one part."""
        return (TextPart(self.content),) if isinstance(self.content, str) else self.content

    @property
    def text(self) -> str:
        """The text parts joined, without reasoning."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def has_thinking(self) -> bool:
        """Whether there is reasoning as a part of its own."""
        return any(isinstance(part, ThinkingPart) for part in self.parts)


def has_reasoning(message: Message) -> bool:
    """Whether there is a thinking part, or a content of plain text with an opening think mark in it."""
    if isinstance(message.content, str):
        return "<think>" in message.content
    return message.has_thinking


def last_index_of(role: Role, messages: Sequence[Message]) -> int:
    """Index of the last message of ``role``, or -1."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == role:
            return index
    return -1
