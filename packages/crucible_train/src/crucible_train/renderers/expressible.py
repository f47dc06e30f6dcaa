"""Whether a format can express a message: nothing is dropped silently."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from crucible_train.renderers.errors import RenderError
from crucible_train.renderers.message import (
    ContentPart,
    ImagePart,
    Message,
    TextPart,
    ThinkingPart,
    ToolCall,
    ToolCallPart,
)

__all__ = ["Feature", "only_text", "require_expressible"]

Feature = Literal["parts", "thinking", "tool_calls", "images"]
"""``parts``: more than one part of content; the others: that kind of content."""

_REMEDY = {
    "parts": "give the content as one text",
    "thinking": "remove the reasoning, or use a renderer with thinking, such as 'qwen3'",
    "tool_calls": "remove the calls, or use a renderer with tool calls, such as 'qwen3'",
    "images": "remove the image, or use a vision renderer",
}
_SHOWN = {
    "parts": "several parts",
    "thinking": "a thinking part",
    "tool_calls": "tool calls",
    "images": "an image",
}


def _features_of(message: Message) -> list[Feature]:
    found: list[Feature] = []
    if any(isinstance(part, ThinkingPart) for part in message.parts):
        found.append("thinking")
    if any(isinstance(part, ImagePart) for part in message.parts):
        found.append("images")
    if message.tool_calls:
        found.append("tool_calls")
    if len(message.parts) != 1:
        found.append("parts")
    return found


def _with_calls_at_end(message: Message, index: int) -> Message:
    """Move tool call parts at the end of the content to ``tool_calls``."""
    parts: list[ContentPart] = []
    calls: list[ToolCall] = []
    for part in message.parts:
        if isinstance(part, ToolCallPart):
            calls.append(part.call)
        elif calls:
            raise RenderError(
                what="content goes on after a tool call",
                where=f"messages[{index}].content",
                remedy="put tool calls last, or split the message",
            )
        else:
            parts.append(part)
    if not calls:
        return message
    return replace(message, content=tuple(parts) or "", tool_calls=(*calls, *message.tool_calls))


def require_expressible(
    message: Message, features: frozenset[Feature], *, renderer: str, index: int
) -> Message:
    """The message, with tool calls in one place, if a format with these features can express it.

    Raises:
        RenderError: it cannot; names the message, the kind of content and the renderer.
    """
    if isinstance(message.content, str) and not message.tool_calls and not message.unparsed_tool_calls:
        return message
    normal = _with_calls_at_end(message, index)
    for feature in _features_of(normal):
        if feature not in features:
            raise RenderError(
                what=f"{renderer!r} cannot express {_SHOWN[feature]} in a message of {message.role!r}",
                where=f"messages[{index}]",
                remedy=_REMEDY[feature],
            )
    if normal.unparsed_tool_calls:
        raise RenderError(
            what=f"{renderer!r} cannot express tool calls that could not be read",
            where=f"messages[{index}].unparsed_tool_calls",
            remedy="render the text the model wrote, or drop the message",
        )
    if len(normal.parts) == 1 and isinstance(normal.parts[0], TextPart) and "parts" not in features:
        return replace(normal, content=normal.parts[0].text)
    return normal


def only_text(message: Message, renderer: str, index: int) -> str:
    """The text of a message that has one text part and nothing else.

    Raises:
        RenderError: it has other content, which the format allows only the assistant.
    """
    if len(message.parts) == 1 and isinstance(message.parts[0], TextPart) and not message.tool_calls:
        return message.parts[0].text
    raise RenderError(
        what=f"{renderer!r} can express only one text in a message of {message.role!r}",
        where=f"messages[{index}]",
        remedy="give the content as one text",
    )
