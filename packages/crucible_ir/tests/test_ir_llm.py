"""Prompts and completions."""

from __future__ import annotations

import pytest

from crucible_ir import (
    Completion,
    CompletionOptions,
    ConfigError,
    ImagePart,
    NamedTool,
    Prompt,
    PromptMessage,
    TextPart,
    TokenUsage,
    ToolCall,
    ToolResultPart,
)


def test_a_prompt_takes_text_and_lists_of_parts() -> None:
    prompt = Prompt.parse(
        {
            "messages": [
                {"role": "user", "content": "hi"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "see "},
                        {"type": "image", "url": "https://h/x.png"},
                        {"type": "text", "text": "this"},
                    ],
                },
                {
                    "role": "tool",
                    "content": [{"type": "tool_result", "tool_call_id": "c", "content": {"n": 1}}],
                },
            ]
        }
    )
    assert prompt.messages[0].content == prompt.messages[0].text == "hi"
    assert prompt.messages[1].content == (
        TextPart(text="see "),
        ImagePart(url="https://h/x.png"),
        TextPart(text="this"),
    )
    assert prompt.messages[1].text == "see this"
    assert prompt.messages[2].content == (ToolResultPart(tool_call_id="c", content={"n": 1}),)


def test_a_tool_may_be_chosen_by_name() -> None:
    data = {"messages": [{"role": "user"}], "tools": [{"name": "look_up"}], "tool_choice": "look_up"}
    assert Prompt.parse(data).tool_choice == NamedTool(name="look_up")


def test_a_misspelt_tool_or_mode_is_answered_with_the_nearest() -> None:
    data = {"messages": [{"role": "user"}], "tools": [{"name": "look_up"}]}
    with pytest.raises(ConfigError, match="did you mean 'look_up'"):
        Prompt.parse({**data, "tool_choice": "lok_up"})
    with pytest.raises(ConfigError, match="did you mean 'required'"):
        Prompt.parse({**data, "tool_choice": "requird"})


def test_a_completion_gives_its_first_text_and_tool_calls() -> None:
    call = {"id": "c", "name": "look_up", "arguments": {"q": "x"}}
    completion = Completion.parse(
        {
            "choices": [
                {"message": {"role": "assistant", "content": "one", "tool_calls": [call]}},
                {"index": 1, "message": {"role": "assistant", "content": "two"}},
            ]
        }
    )
    assert completion.text == "one"
    assert completion.tool_calls == (ToolCall(id="c", name="look_up", arguments={"q": "x"}),)


def test_a_completion_without_choices_has_no_text_and_no_calls() -> None:
    assert Completion().text is None
    assert Completion().tool_calls == ()


def test_usage_adds_up() -> None:
    assert TokenUsage(prompt_tokens=3, completion_tokens=4, thinking_tokens=2).total_tokens == 7


def test_one_stop_string_is_a_list_of_one() -> None:
    assert CompletionOptions.parse({"stop": "END"}).stop == ("END",)


def test_a_message_without_content_is_empty() -> None:
    assert PromptMessage.parse({"role": "assistant"}).text == ""
