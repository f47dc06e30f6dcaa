"""Messages in the JSON form that chat templates read, and copies of them with one field changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crucible_train.renderers.errors import RenderError
from crucible_train.renderers.message import Message, TextPart, ThinkingPart, ToolCall, ToolSpec

__all__ = ["CLOSE_THINK", "TOOLS_ROLE", "Field", "Row", "fields_of", "row_of", "tool_row", "unlike"]

Row = Mapping[str, Any]

TOOLS_ROLE = "_chat_template_tools"
"""Role of the message that carries tools to the template; its content is a JSON list."""

CLOSE_THINK = "</think>"
_OPEN_THINK = "<think>"
_WORDS = ("QuvzK", "JewxP", "YiqkG")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One piece of a message, and the message with ``word`` in its place.

    By what the template then writes differently, the piece is found in its text.
    """

    kind: Literal["text", "reasoning", "call"]
    original: str
    word: str
    row: Row


def row_of(message: Message, *, index: int, arguments_as_text: bool) -> dict[str, Any]:
    """The message as templates read it: reasoning under the two names that are in use.

    Raises:
        RenderError: reasoning does not come first, or comes in several parts.
    """
    thoughts = [part.thinking for part in message.parts if isinstance(part, ThinkingPart)]
    if len(thoughts) > 1 or (thoughts and not isinstance(message.parts[0], ThinkingPart)):
        raise RenderError(
            what="'chat_template' can express one thinking part, before the text",
            where=f"messages[{index}].content",
            remedy="join the reasoning and put it first",
        )
    text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
    row: dict[str, Any] = {"role": message.role, "content": text}
    if thoughts:
        row |= {"reasoning_content": thoughts[0], "thinking": thoughts[0]}
    if message.tool_calls:
        row["tool_calls"] = [_call_row(call, arguments_as_text) for call in message.tool_calls]
    row |= {k: v for k in ("name", "tool_call_id") if (v := getattr(message, k)) is not None}
    return row


def _call_row(call: ToolCall, as_text: bool) -> dict[str, Any]:
    arguments = call.decoded_arguments()
    function = {"name": call.name, "arguments": json.dumps(arguments) if as_text else arguments}
    row: dict[str, Any] = {"type": "function", "function": function}
    return row if call.id is None else {"id": call.id, **row}


def tool_row(tool: ToolSpec) -> dict[str, Any]:
    """A tool as templates read it."""
    return {"type": "function", "function": tool.to_dict()}


def unlike(text: str) -> str:
    """A word that shares neither the first nor the last character with ``text``, spaces aside."""
    inner = text.strip()
    return next(w for w in _WORDS if not inner or (w[0] != inner[0] and w[-1] != inner[-1]))


def fields_of(row: Row) -> list[Field]:
    """The pieces of a message that a reader of the conversation should find in it.

    A ``</think>`` in the text of the assistant parts it into reasoning and text, since templates do so too.
    Text that is empty beside calls or reasoning is no piece.
    """
    found: list[Field] = []
    thinking = row.get("reasoning_content", "")
    if thinking.strip():
        word = unlike(thinking)
        changed = {**row, "reasoning_content": word, "thinking": word}
        found.append(Field(kind="reasoning", original=thinking, word=word, row=changed))
    calls: Sequence[Row] = row.get("tool_calls", ())
    found += _text_fields(row, alone=not found and not calls)
    for number, call in enumerate(calls):
        found.append(_call_field(row, calls, number, call))
    return found or [_whole(row)]


def _whole(row: Row) -> Field:
    word = unlike(row["content"])
    return Field(kind="text", original=row["content"], word=word, row={**row, "content": word})


def _text_fields(row: Row, *, alone: bool) -> list[Field]:
    content: str = row["content"]
    before, mark, after = content.partition(CLOSE_THINK)
    if row["role"] != "assistant" or not mark:
        return [_whole(row)] if alone or content.strip() else []
    found: list[Field] = []
    head, opening, thinking = before.rpartition(_OPEN_THINK)
    if thinking.strip():
        word = unlike(thinking)
        changed = {**row, "content": head + opening + word + mark + after}
        found.append(Field(kind="reasoning", original=thinking, word=word, row=changed))
    if after.strip():
        word = unlike(after)
        found.append(
            Field(kind="text", original=after, word=word, row={**row, "content": before + mark + word})
        )
    return found


def _call_field(row: Row, calls: Sequence[Row], number: int, call: Row) -> Field:
    function = call["function"]
    as_text = isinstance(function["arguments"], str)
    original = function["arguments"] if as_text else json.dumps(function["arguments"])
    word = unlike(original)
    arguments = json.dumps({word: word}) if as_text else {word: word}
    changed = {**call, "function": {**function, "arguments": arguments}}
    others = [*calls[:number], changed, *calls[number + 1 :]]
    return Field(kind="call", original=original, word=word, row={**row, "tool_calls": others})
