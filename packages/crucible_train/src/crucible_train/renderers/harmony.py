"""Reading the channels of an answer in gpt-oss's notation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from crucible_train.renderers.message import (
    ContentPart,
    Message,
    TextPart,
    ThinkingPart,
    ToolCall,
    UnparsedToolCall,
)
from crucible_train.renderers.rendered import Mark

__all__ = ["CALL", "CHANNEL", "CONSTRAIN", "END", "MESSAGE", "RETURN", "START", "read_harmony"]

START, END, RETURN, CALL = Mark("<|start|>"), Mark("<|end|>"), Mark("<|return|>"), Mark("<|call|>")
CHANNEL, MESSAGE, CONSTRAIN = Mark("<|channel|>"), Mark("<|message|>"), Mark("<|constrain|>")

_ENDING = re.compile("|".join(re.escape(mark) for mark in (END, CALL, RETURN)))
_CHANNEL = re.compile(re.escape(CHANNEL) + r"([^<\s]+)")
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_FUNCTIONS = "functions."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """One message within an answer."""

    header: str
    content: str
    raw_text: str

    @property
    def function(self) -> str | None:
        """Name of the function it is addressed to."""
        found = _RECIPIENT.search(self.header)
        if found is None or not found[1].startswith(_FUNCTIONS):
            return None
        return found[1].removeprefix(_FUNCTIONS)

    @property
    def channel(self) -> str | None:
        found = _CHANNEL.search(self.header)
        return found[1] if found else None


def _sections(text: str) -> Iterator[_Section]:
    position = 0
    while (mark := text.find(MESSAGE, position)) != -1:
        start = text.rfind(START, position, mark)
        start = position if start == -1 else start
        body = mark + len(MESSAGE)
        ending = _ENDING.search(text, body)
        end, position = (ending.start(), ending.end()) if ending else (len(text), len(text))
        yield _Section(header=text[start:mark], content=text[body:end], raw_text=text[start:position])


def read_harmony(text: str) -> Message:
    """The assistant's message in the text before the end mark.

    ``analysis`` is reasoning; ``final`` and ``commentary`` are text; what is addressed to a function is a call.
    Sections that say nothing are left out. An answer that has nothing else to show (no section, a call alone, only
    unknown channels) is its whole text.
    """
    parts: list[ContentPart] = []
    calls: list[ToolCall] = []
    unparsed: list[UnparsedToolCall] = []
    sections = list(_sections(text))
    for section in sections:
        if not section.content.strip():
            continue
        if section.function is not None:
            try:
                json.loads(section.content)
            except json.JSONDecodeError as error:
                unparsed.append(UnparsedToolCall(raw_text=section.raw_text, error=f"not JSON: {error}"))
            else:
                calls.append(ToolCall(name=section.function, arguments=section.content.strip()))
        elif section.channel == "analysis":
            parts.append(ThinkingPart(section.content))
        elif section.channel in ("final", "commentary"):
            parts.append(TextPart(section.content))
    if text.count(f"to={_FUNCTIONS}") > len(calls) + len(unparsed):
        start = max(text.rfind(START), 0)
        unparsed.append(UnparsedToolCall(raw_text=text[start:], error="a function is named and not called"))
    nothing_said = bool(sections) and not any(section.content.strip() for section in sections)
    return Message(
        role="assistant",
        content=tuple(parts) or ("" if nothing_said else text),
        tool_calls=tuple(calls),
        unparsed_tool_calls=tuple(unparsed),
    )
