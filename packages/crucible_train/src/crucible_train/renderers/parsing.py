"""Reading a sampled answer: where it stops, what was reasoning, what was a tool call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.renderers.errors import RenderError
from crucible_train.renderers.message import (
    ContentPart,
    TextPart,
    ThinkingPart,
    ToolCall,
    UnparsedToolCall,
)
from crucible_train.renderers.rendered import ParseTermination

__all__ = [
    "CallReader",
    "read_tool_call",
    "split_at_stop_token",
    "split_blocks",
    "split_thinking",
    "unterminated_block",
]

_THINKING = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_BLOCK = re.compile(r"<think>(?P<thinking>.*?)</think>|<tool_call>(?P<call>.*?)</tool_call>", re.DOTALL)


def split_at_stop_token(
    tokens: Sequence[int], tokenizer: Tokenizer, stop: int
) -> tuple[str, ParseTermination]:
    """Text before the stop token, and whether there was one.

    Raises:
        RenderError: there are several.
    """
    count = list(tokens).count(stop)
    if count > 1:
        raise RenderError(
            what=f"{count} stop tokens in one answer",
            where="parse_response",
            remedy="sample with the renderer's stop_sequences",
        )
    if count == 0:
        return tokenizer.decode(list(tokens)), ParseTermination.MALFORMED
    end = list(tokens).index(stop)
    return tokenizer.decode(list(tokens)[:end]), ParseTermination.STOP_SEQUENCE


def read_tool_call(text: str, raw_text: str) -> ToolCall | UnparsedToolCall:
    """The call that a JSON object ``{"name": …, "arguments": {…}}`` spells, or why it is none."""
    try:
        value = json.loads(text.strip())
    except json.JSONDecodeError as error:
        return UnparsedToolCall(raw_text=raw_text, error=f"not JSON: {error}")
    if not isinstance(value, dict):
        return UnparsedToolCall(raw_text=raw_text, error=f"a JSON {type(value).__name__} and not an object")
    name, arguments, call_id = value.get("name"), value.get("arguments"), value.get("id")
    if not isinstance(name, str):
        return UnparsedToolCall(raw_text=raw_text, error="no text under 'name'")
    if not isinstance(arguments, dict):
        return UnparsedToolCall(raw_text=raw_text, error="no object under 'arguments'")
    return ToolCall(
        name=name, arguments=json.dumps(arguments), id=call_id if isinstance(call_id, str) else None
    )


CallReader = Callable[[str, str], ToolCall | UnparsedToolCall]
"""Takes what stands between the marks, and the whole block."""


def split_blocks(
    text: str, read_call: CallReader = read_tool_call
) -> tuple[list[ContentPart], list[ToolCall | UnparsedToolCall]] | None:
    """Text, ``<think>`` and ``<tool_call>`` blocks in order; None when there is no such mark.

    White space outside the blocks is kept; empty blocks and empty stretches of text are left out.
    """
    if "<think>" not in text and "<tool_call>" not in text:
        return None
    parts: list[ContentPart] = []
    calls: list[ToolCall | UnparsedToolCall] = []
    position = 0
    for match in _BLOCK.finditer(text):
        if match.start() > position:
            parts.append(TextPart(text[position : match.start()]))
        if match["thinking"]:
            parts.append(ThinkingPart(match["thinking"]))
        elif match["call"] is not None:
            calls.append(read_call(match["call"], match[0]))
        position = match.end()
    if position < len(text):
        parts.append(TextPart(text[position:]))
    return parts, calls


def split_thinking(text: str) -> tuple[ContentPart, ...] | None:
    """Text and ``<think>`` blocks in order; None when there is no such mark. White space is kept."""
    if "<think>" not in text:
        return None
    parts: list[ContentPart] = []
    position = 0
    for match in _THINKING.finditer(text):
        parts += [TextPart(text[position : match.start()])] if match.start() > position else []
        parts += [ThinkingPart(match[1])] if match[1] else []
        position = match.end()
    return (*parts, TextPart(text[position:])) if position < len(text) else tuple(parts)


def unterminated_block(text: str, opening: str, closing: str) -> UnparsedToolCall | None:
    """The last block that was opened and never closed, if there are more openings than closings."""
    if text.count(opening) <= text.count(closing):
        return None
    return UnparsedToolCall(
        raw_text=text[text.rfind(opening) :],
        error=f"{opening!r} is never closed by {closing!r}",
    )
