"""Messages from and to the JSON form that chat datasets use (OpenAI's)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from crucible_ir.errors import DataError, nearest
from crucible_train.renderers.message import (
    Content,
    ContentPart,
    ImagePart,
    Message,
    TextPart,
    ThinkingPart,
    ToolCall,
    ToolCallPart,
)

__all__ = ["message_from_dict", "message_to_dict", "messages_from_dicts"]

_MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "trainable")
_PART_KEYS = {
    "text": ("text",),
    "thinking": ("thinking",),
    "image": ("data", "format"),
    "tool_call": ("tool_call",),
}


def _fail(what: str, where: str, remedy: str) -> DataError:
    return DataError(what=what, where=where, remedy=remedy)


def _check_keys(row: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in row:
        if key not in known:
            near = nearest(str(key), known)
            raise _fail(
                f"unknown key {key!r}",
                where,
                f"did you mean {near!r}?" if near else f"valid: {', '.join(known)}",
            )


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _fail(f"{type(value).__name__} where text belongs", where, "give a string")
    return value


def _optional_text(value: object, where: str) -> str | None:
    return None if value is None else _text(value, where)


def _call(row: object, where: str) -> ToolCall:
    if not isinstance(row, Mapping):
        raise _fail(f"{type(row).__name__} where a tool call belongs", where, "give an object")
    _check_keys(row, ("type", "id", "function"), where)
    function = row.get("function")
    if not isinstance(function, Mapping):
        raise _fail("tool call without 'function'", where, "give function.name and function.arguments")
    _check_keys(function, ("name", "arguments"), f"{where}.function")
    arguments = function.get("arguments", "{}")
    return ToolCall(
        name=_text(function.get("name"), f"{where}.function.name"),
        arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
        id=_optional_text(row.get("id"), f"{where}.id"),
    )


def _part(row: object, where: str) -> ContentPart:
    if isinstance(row, str):
        return TextPart(row)
    if not isinstance(row, Mapping):
        raise _fail(f"{type(row).__name__} where a part belongs", where, "give text or an object with 'type'")
    kind = row.get("type")
    if kind not in _PART_KEYS:
        near = nearest(str(kind), _PART_KEYS)
        raise _fail(
            f"part of type {kind!r}",
            f"{where}.type",
            f"did you mean {near!r}?" if near else f"valid: {', '.join(_PART_KEYS)}",
        )
    _check_keys(row, ("type", *_PART_KEYS[kind]), where)
    if kind == "text":
        return TextPart(_text(row.get("text"), f"{where}.text"))
    if kind == "thinking":
        return ThinkingPart(_text(row.get("thinking"), f"{where}.thinking"))
    if kind == "tool_call":
        return ToolCallPart(_call(row.get("tool_call"), f"{where}.tool_call"))
    return _image(row, where)


def _image(row: Mapping[str, Any], where: str) -> ImagePart:
    data, form = row.get("data"), row.get("format")
    if form not in ("png", "jpeg"):
        raise _fail(f"image of format {form!r}", f"{where}.format", "give 'png' or 'jpeg'")
    if isinstance(data, str):
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise _fail(f"image data is not base64 ({error})", f"{where}.data", "encode as base64") from None
    if not isinstance(data, bytes):
        raise _fail(f"{type(data).__name__} where image bytes belong", f"{where}.data", "give base64 text")
    return ImagePart(data=data, format=form)


def _content(value: object, where: str, *, may_be_absent: bool) -> Content:
    if isinstance(value, str):
        return value
    if value is None and may_be_absent:
        return ""
    if isinstance(value, Sequence):
        return tuple(_part(row, f"{where}[{i}]") for i, row in enumerate(value))
    raise _fail(f"content is {type(value).__name__}", where, "give text or a list of parts")


def message_from_dict(row: Mapping[str, Any], *, where: str = "message") -> Message:
    """A message from its JSON form.

    ``content`` may be null where there are tool calls. ``where`` begins the path of every error.

    Raises:
        DataError: an unknown key, a missing role or content, or a value of a wrong type.
    """
    _check_keys(row, _MESSAGE_KEYS, where)
    calls = row.get("tool_calls") or ()
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise _fail(f"{type(calls).__name__} where calls belong", f"{where}.tool_calls", "give a list")
    trainable = row.get("trainable")
    if trainable is not None and not isinstance(trainable, bool):
        raise _fail(f"{trainable!r} where true or false belongs", f"{where}.trainable", "give true or false")
    return Message(
        role=_text(row.get("role"), f"{where}.role"),
        content=_content(row.get("content"), f"{where}.content", may_be_absent=bool(calls)),
        tool_calls=tuple(_call(c, f"{where}.tool_calls[{i}]") for i, c in enumerate(calls)),
        tool_call_id=_optional_text(row.get("tool_call_id"), f"{where}.tool_call_id"),
        name=_optional_text(row.get("name"), f"{where}.name"),
        trainable=trainable,
    )


def messages_from_dicts(rows: Sequence[Mapping[str, Any]], *, where: str = "messages") -> list[Message]:
    """A conversation from its JSON form; errors name the index of the message.

    Raises:
        DataError: as ``message_from_dict``.
    """
    return [message_from_dict(row, where=f"{where}[{i}]") for i, row in enumerate(rows)]


def _call_to_dict(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"type": "function", "id": call.id, "function": function}


def _part_to_dict(part: ContentPart) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ThinkingPart():
            return {"type": "thinking", "thinking": part.thinking}
        case ToolCallPart():
            return {"type": "tool_call", "tool_call": _call_to_dict(part.call)}
        case ImagePart():
            data = base64.b64encode(part.data).decode("ascii")
            return {"type": "image", "data": data, "format": part.format}


def message_to_dict(message: Message) -> dict[str, Any]:
    """The JSON form of a message; keys that say nothing are left out."""
    content = message.content
    row: dict[str, Any] = {
        "role": message.role,
        "content": content if isinstance(content, str) else [_part_to_dict(part) for part in content],
    }
    if message.tool_calls:
        row["tool_calls"] = [_call_to_dict(call) for call in message.tool_calls]
    if message.unparsed_tool_calls:
        row["unparsed_tool_calls"] = [
            {"raw_text": call.raw_text, "error": call.error} for call in message.unparsed_tool_calls
        ]
    for key in ("tool_call_id", "name", "trainable"):
        value = getattr(message, key)
        if value is not None:
            row[key] = value
    return row
