"""Reading back an answer that was sampled behind a chat template's prompt."""

from __future__ import annotations

import json

from crucible_train.renderers.chat_template_facts import CallFrame, TemplateFacts
from crucible_train.renderers.message import (
    ContentPart,
    Message,
    TextPart,
    ThinkingPart,
    ToolCall,
    UnparsedToolCall,
)

__all__ = ["read_answer"]

_DECODER = json.JSONDecoder()


def read_answer(text: str, facts: TemplateFacts) -> Message:
    """The message that ``text``, without its end mark, spells; undoes what the template puts around its pieces."""
    rest, calls = _split_calls(text, facts.calls)
    thinking, rest = _split_reasoning(rest if calls else rest.removesuffix(facts.gap), facts)
    content: str | tuple[ContentPart, ...] = rest
    if thinking:
        content = (ThinkingPart(thinking), TextPart(rest)) if rest else (ThinkingPart(thinking),)
    return Message(
        role="assistant",
        content=content,
        tool_calls=tuple(call for call in calls if isinstance(call, ToolCall)),
        unparsed_tool_calls=tuple(call for call in calls if isinstance(call, UnparsedToolCall)),
    )


def _split_reasoning(text: str, facts: TemplateFacts) -> tuple[str, str]:
    """Reasoning and the rest, as the template frames them, or with other white space at the edges."""
    if facts.plain and text.startswith(facts.plain):
        return "", text.removeprefix(facts.plain)
    if facts.before is None or facts.behind is None:
        return "", text
    if text.startswith(facts.before) and facts.behind.strip():
        thinking, mark, rest = text.removeprefix(facts.before).partition(facts.behind)
        if mark:
            return thinking, rest
    opening, closing = facts.before.strip(), facts.behind.strip()
    if not closing or not text.lstrip().startswith(opening) or closing not in text:
        return "", text
    thinking, _, rest = text.lstrip().removeprefix(opening).partition(closing)
    return thinking.strip("\n"), rest.lstrip("\n")


def _split_calls(text: str, frame: CallFrame | None) -> tuple[str, list[ToolCall | UnparsedToolCall]]:
    """The text before the calls, and the calls; a call that cannot be read is kept with the reason."""
    opening = frame.opening.strip() if frame is not None else ""
    if frame is None or not opening or opening not in text:
        return text, []
    before, _, rest = text.partition(opening)
    calls: list[ToolCall | UnparsedToolCall] = []
    while True:
        name, mark, behind = rest.partition(frame.middle.strip() or frame.middle)
        try:
            arguments, end = _DECODER.raw_decode(behind.lstrip()) if mark else (None, 0)
        except json.JSONDecodeError as error:
            return _unread(text, before, opening, rest, calls, f"arguments are not JSON: {error}")
        if not isinstance(arguments, dict):
            return _unread(text, before, opening, rest, calls, "no name and JSON object follow")
        calls.append(ToolCall(name=name.strip(), arguments=json.dumps(arguments, ensure_ascii=False)))
        left = behind.lstrip()[end:].strip()
        between = (frame.between or "").strip()
        if between and left.startswith(between):
            rest = left.removeprefix(between)
            continue
        if left != frame.closing.strip():
            calls.append(UnparsedToolCall(raw_text=left, error="text after the last call"))
        return before.rstrip("\n"), calls


def _unread(
    text: str, before: str, opening: str, rest: str, calls: list[ToolCall | UnparsedToolCall], error: str
) -> tuple[str, list[ToolCall | UnparsedToolCall]]:
    if not calls and opening.startswith(
        "{"
    ):  # a template whose calls are bare JSON: this is an answer in JSON
        return text, []
    return before.rstrip("\n"), [*calls, UnparsedToolCall(raw_text=opening + rest, error=error)]
