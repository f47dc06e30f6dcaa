r"""Conversations in their various spellings, as one list of ``{"role", "content"}`` messages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = [
    "ROLES",
    "Message",
    "Unfit",
    "assistant_text",
    "message_list",
    "parse_human_assistant",
    "text_or_messages",
]

Message = dict[str, Any]
"""One message: ``role``, ``content`` and whatever else the row's message had."""

ROLES: Mapping[str, str] = MappingProxyType(
    {
        "system": "system",
        "developer": "system",
        "user": "user",
        "human": "user",
        "prompter": "user",
        "assistant": "assistant",
        "gpt": "assistant",
        "bot": "assistant",
        "chatgpt": "assistant",
        "model": "assistant",
        "function_call": "assistant",
        "tool": "tool",
        "function": "tool",
        "observation": "tool",
    }
)
"""Role names of data sets and what they mean here."""

_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


class Unfit(Exception):
    """A row that does not fit the schema; its text is the reason, the same for rows alike."""


def _function_call(value: Any) -> list[dict[str, Any]]:
    try:
        call = json.loads(value)
        name, arguments = call["name"], call.get("arguments", {})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise Unfit("a function_call is not JSON with a name") from error
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return [{"type": "function", "function": {"name": name, "arguments": text}}]


def _message(item: Any) -> Message:
    if not isinstance(item, Mapping):
        raise Unfit("a message is not an object")
    role_key = "role" if "role" in item else "from"
    content_key = "content" if "content" in item else "value"
    given = item.get(role_key)
    role = ROLES.get(given.lower()) if isinstance(given, str) else None
    if role is None:
        raise Unfit("a message has no role" if given is None else f"unknown role {given!r}")
    content = item.get(content_key)
    rest = {
        key: value for key, value in item.items() if key not in (role_key, content_key) and value is not None
    }
    if given == "function_call":
        return {"role": role, "content": "", "tool_calls": _function_call(content)} | rest
    if content is None and rest.get("tool_calls"):
        content = ""
    if not isinstance(content, str | list):
        raise Unfit(
            "a message has no content" if content is None else "a message's content is neither text nor parts"
        )
    return {"role": role, "content": content} | rest


def message_list(value: Any) -> list[Message]:
    """The messages of a list of ``{"role", "content"}`` or ``{"from", "value"}``; a single message is a list of one.

    Raises:
        Unfit: not such a list, an empty one, an unknown role, or content that is neither text nor parts.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise Unfit("the conversation is missing" if value is None else "the conversation is not a list")
    if not value:
        raise Unfit("the conversation is empty")
    return [_message(item) for item in value]


def _filled(message: Message) -> bool:
    content = message["content"]
    return bool(content.strip() if isinstance(content, str) else content) or bool(message.get("tool_calls"))


def assistant_text(messages: list[Message]) -> list[Message]:
    """``messages``, if an assistant says something in them.

    Raises:
        Unfit: no assistant message, or none but empty ones.
    """
    spoken = [message for message in messages if message["role"] == "assistant"]
    if not spoken:
        raise Unfit("no assistant message")
    if not any(map(_filled, spoken)):
        raise Unfit("every assistant message is empty")
    return messages


def text_or_messages(value: Any, *, role: str, field: str) -> list[Message]:
    """A text as one message of ``role``, or a list of messages as it is.

    Raises:
        Unfit: missing, empty, or neither.
    """
    if isinstance(value, str):
        if not value.strip():
            raise Unfit(f"{field} is empty")
        return [{"role": role, "content": value}]
    if value is None:
        raise Unfit(f"{field} is missing")
    if not isinstance(value, list | Mapping):
        raise Unfit(f"{field} is neither text nor messages")
    return message_list(value)


def parse_human_assistant(text: str) -> list[Message]:
    r"""The turns of ``"\n\nHuman: …\n\nAssistant: …"``; what a speaker says is stripped of white space.

    A turn begins with a blank line (or the text); ``Human:`` within what somebody says begins none.

    Raises:
        Unfit: the text does not begin with a turn.
    """
    marks = list(_TURN.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise Unfit("the text does not begin with 'Human:' or 'Assistant:'")
    messages: list[Message] = []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        role = "user" if mark[1] == "Human" else "assistant"
        messages.append({"role": role, "content": text[mark.end() : end].strip()})
    return messages
