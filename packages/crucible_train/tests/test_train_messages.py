"""Messages read from JSON say exactly what is wrong with a row, and go back to the same JSON."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir.errors import DataError
from crucible_train.renderers import (
    ImagePart,
    Message,
    RenderError,
    TextPart,
    ThinkingPart,
    ToolCall,
    ToolCallPart,
    UnparsedToolCall,
    message_from_dict,
    message_to_dict,
    messages_from_dicts,
)

CALL = {"type": "function", "id": "c1", "function": {"name": "search", "arguments": '{"q": 1}'}}


def test_every_recorded_conversation_goes_to_messages_and_back(golden: Callable[[str], Any]) -> None:
    for rows in golden("conversations")["conversations"].values():
        assert [message_to_dict(message) for message in messages_from_dicts(rows)] == rows


def test_parts_calls_and_images_go_to_messages_and_back() -> None:
    row = {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm"},
            {"type": "text", "text": "see"},
            {"type": "image", "data": base64.b64encode(b"\x89PNG").decode(), "format": "png"},
            {"type": "tool_call", "tool_call": CALL},
        ],
        "trainable": True,
    }
    message = message_from_dict(row)
    assert message.parts == (
        ThinkingPart("hm"),
        TextPart("see"),
        ImagePart(data=b"\x89PNG", format="png"),
        ToolCallPart(ToolCall(name="search", arguments='{"q": 1}', id="c1")),
    )
    assert message_to_dict(message) == row


def test_a_part_may_be_plain_text() -> None:
    assert message_from_dict({"role": "user", "content": ["a"]}).content == (TextPart("a"),)


def test_null_content_is_text_where_there_are_calls_and_arguments_may_be_an_object() -> None:
    call = {"function": {"name": "search", "arguments": {"q": 1}}}
    message = message_from_dict({"role": "assistant", "content": None, "tool_calls": [call]})
    assert message.content == ""
    assert message.tool_calls == (ToolCall(name="search", arguments='{"q": 1}'),)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"role": "user"}, "message.content: content is NoneType; give text or a list of parts"),
        ({"content": "x"}, "message.role: NoneType where text belongs; give a string"),
        ({"role": "user", "conten": "x"}, "message: unknown key 'conten'; did you mean 'content'?"),
        ({"role": "user", "zzz": "x"}, "unknown key 'zzz'; valid: role, content,"),
        (
            {"role": "user", "content": [{"type": "txt"}]},
            "content[0].type: part of type 'txt'; did you mean 'text'?",
        ),
        ({"role": "user", "content": [{"type": "??"}]}, "valid: text, thinking, image, tool_call"),
        ({"role": "user", "content": [3]}, "content[0]: int where a part belongs"),
        (
            {"role": "user", "content": [{"type": "text", "text": 3}]},
            "content[0].text: int where text belongs",
        ),
        ({"role": "user", "content": [{"type": "image", "data": "?", "format": "png"}]}, "not base64"),
        ({"role": "user", "content": [{"type": "image", "data": 3, "format": "png"}]}, "image bytes belong"),
        ({"role": "user", "content": [{"type": "image", "format": "gif"}]}, "image of format 'gif'"),
        ({"role": "user", "content": "x", "trainable": 1}, "message.trainable: 1 where true or false"),
        ({"role": "user", "content": "x", "tool_calls": "c"}, "message.tool_calls: str where calls belong"),
        ({"role": "user", "content": "x", "tool_calls": [3]}, "tool_calls[0]: int where a tool call belongs"),
        ({"role": "user", "content": "x", "tool_calls": [{}]}, "tool_calls[0]: tool call without 'function'"),
        ({"role": "user", "content": "x", "name": 3}, "message.name: int where text belongs"),
    ],
)
def test_a_bad_row_is_named_by_path_problem_and_remedy(row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        message_from_dict(row)
    assert said in str(caught.value)


def test_the_index_of_a_bad_message_is_named() -> None:
    with pytest.raises(DataError, match=r"^messages\[1\]\.role: "):
        messages_from_dicts([{"role": "user", "content": "x"}, {"content": "y"}])


def test_a_message_without_a_role_is_refused() -> None:
    with pytest.raises(RenderError, match="a message without a role"):
        Message(role="", content="x")


def test_text_leaves_reasoning_out() -> None:
    message = Message(role="assistant", content=(ThinkingPart("a"), TextPart("b"), TextPart("c")))
    assert (message.text, message.has_thinking) == ("bc", True)
    assert Message(role="user", content="x").parts == (TextPart("x"),)


@pytest.mark.parametrize(("arguments", "said"), [("{", "are not JSON"), ("[]", "are a JSON list")])
def test_arguments_that_are_no_object_are_refused(arguments: str, said: str) -> None:
    with pytest.raises(RenderError, match=said):
        ToolCall(name="f", arguments=arguments).decoded_arguments()


def test_calls_that_could_not_be_read_are_written_with_their_reason() -> None:
    message = Message(
        role="assistant", content="x", unparsed_tool_calls=(UnparsedToolCall(raw_text="<t>", error="no"),)
    )
    assert message_to_dict(message)["unparsed_tool_calls"] == [{"raw_text": "<t>", "error": "no"}]


@given(st.sampled_from(["user", "assistant", "tool"]), st.text(), st.none() | st.booleans())
def test_any_text_message_goes_to_json_and_back(role: str, text: str, trainable: bool | None) -> None:
    message = Message(role=role, content=text, trainable=trainable)
    assert message_from_dict(message_to_dict(message)) == message
