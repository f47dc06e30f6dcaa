"""What each format does with its own corners: tools, dates, efforts, images, broken calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crucible_ir.errors import ConfigError
from crucible_testing.tokenizers import FileTokenizer
from crucible_train.renderers import (
    ImagePart,
    ImageProcessor,
    MarkupPart,
    Message,
    RendererOptions,
    RenderError,
    TextPart,
    ThinkingPart,
    ToolCall,
    ToolSpec,
    TrainOnWhat,
    get_renderer,
    message_to_dict,
)
from crucible_train.renderers.typescript import declare_tool
from crucible_train.renderers.xml_calls import read_xml_call

USER = Message(role="user", content="Hello")
ANSWER = Message(role="assistant", content="Hi")
SPEC = ToolSpec(
    name="f", description="does", parameters={"type": "object", "properties": {"x": {"type": "string"}}}
)
DATED = RendererOptions(current_date="2025-01-01")


class EveryImageTakes:
    def __init__(self, positions: int) -> None:
        self.positions = positions

    def count_positions(self, image: ImagePart) -> int:
        return self.positions


def rendered(tokenizer: FileTokenizer, name: str, *messages: Message) -> str:
    prompt = get_renderer(name, tokenizer, DATED).build_generation_prompt(messages)
    return tokenizer.decode(prompt.to_ints())


# Images


def test_an_image_takes_the_positions_its_processor_counts(mini: FileTokenizer) -> None:
    processor = EveryImageTakes(5)
    assert isinstance(processor, ImageProcessor)
    renderer = get_renderer("qwen3_vl", mini, RendererOptions(images=processor))
    seeing = Message(role="user", content=(ImagePart(data=b"i", format="png"), TextPart("What?")))
    example = renderer.build_supervised_example([seeing, ANSWER])
    lengths = [chunk.length for chunk in example.model_input.chunks]
    assert lengths[2] == 5
    assert example.weights.shape == (sum(lengths),)


def test_an_image_without_a_processor_is_refused(mini: FileTokenizer) -> None:
    seeing = Message(role="user", content=(ImagePart(data=b"i", format="png"),))
    with pytest.raises(RenderError, match="'qwen3_5' was given an image and no image processor"):
        get_renderer("qwen3_5", mini).build_generation_prompt([seeing])


# Qwen3.5 and 3.8


def test_white_space_around_visible_content_is_trimmed_and_within_it_kept(mini: FileTokenizer) -> None:
    said = Message(
        role="assistant", content=(ThinkingPart("hm"), TextPart("  \n"), TextPart(" a "), TextPart("b  "))
    )
    text = rendered(mini, "qwen3_5", USER, said)
    assert "<think>\nhm\n</think>\n\na b<|im_end|>" in text
    seeing = Message(
        role="user", content=(TextPart(" a "), ImagePart(data=b"i", format="png"), TextPart(" b "))
    )
    renderer = get_renderer("qwen3_5", mini, RendererOptions(images=EveryImageTakes(2)))
    chunks = renderer.build_generation_prompt([seeing]).chunks
    texts = [mini.decode(chunk.tokens) for chunk in chunks if hasattr(chunk, "tokens")]
    assert texts[1:3] == ["a <|vision_start|>", "<|vision_end|> b<|im_end|>"]


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("<function=f>\njunk\n<parameter=x>\n1\n</parameter>\n</function>", "text between parameters"),
        ("<function=f>\n<parameter=x>\n1\n</parameter>\njunk\n</function>", "text after the last parameter"),
        ("<function=f>", "no <function=…> element fills the block"),
    ],
)
def test_a_broken_xml_call_keeps_its_reason(mini: FileTokenizer, block: str, reason: str) -> None:
    text = f"<tool_call>\n{block}\n</tool_call><|im_end|>"
    message, _ = get_renderer("qwen3_5", mini).parse_response(mini.encode(text, allow_special=True))
    (call,) = message.unparsed_tool_calls
    assert call.error == reason


def test_xml_values_are_json_where_they_are_and_text_elsewhere() -> None:
    block = "<function=f><parameter=a>\n[1]\n</parameter><parameter=b>\nno json\n</parameter></function>"
    assert read_xml_call(block, block) == ToolCall(name="f", arguments='{"a": [1], "b": "no json"}')


def test_an_effort_is_named_once_in_the_system_message(mini: FileTokenizer) -> None:
    brief = Message(role="system", content=" Be brief. ")
    low = "Reasoning effort is set to low."
    assert rendered(mini, "qwen3_8_low_reasoning", USER).count(low) == 1
    text = rendered(mini, "qwen3_8_low_reasoning", brief, USER)
    assert text.count(low) == 1
    assert "elaboration.\n\nBe brief.<|im_end|>" in text
    parts = replace(brief, content=(ThinkingPart("t"), TextPart("Be brief.")))
    assert f"system\n{low}" in rendered(mini, "qwen3_8_low_reasoning", parts, USER)
    assert low not in rendered(mini, "qwen3_8_medium_reasoning", parts, USER)


def test_a_system_message_that_says_nothing_is_left_out_of_qwen3_8(mini: FileTokenizer) -> None:
    nothing = Message(role="system", content="  ")
    assert "system" not in rendered(mini, "qwen3_8_medium_reasoning", nothing, USER)
    assert "system" in rendered(mini, "qwen3_5", nothing, USER)


def test_stripping_in_qwen3_8_ends_at_the_last_user_message(mini: FileTokenizer) -> None:
    from crucible_train.renderers.qwen3_8 import Qwen3_8MediumReasoningRenderer

    renderer = Qwen3_8MediumReasoningRenderer(mini, strip_thinking_from_history=True)
    thinking = Message(role="assistant", content=(ThinkingPart("hm"), TextPart("Hi")))
    result = Message(role="tool", content="r")
    text = mini.decode(
        renderer.build_generation_prompt(
            [USER, thinking, USER, replace(thinking, tool_calls=()), result]
        ).to_ints()
    )
    assert text.count("hm") == 1
    assert "assistant\nHi<|im_end|>" in text


@pytest.mark.parametrize(
    "name", ["qwen3_8_xhigh_reasoning", "gpt_oss_low_reasoning", "nemotron3", "nemotron3_disable_thinking"]
)
def test_customized_works_where_the_format_adds_a_system_message(mini: FileTokenizer, name: str) -> None:
    marked = [replace(USER, trainable=False), replace(ANSWER, trainable=True)]
    renderer = get_renderer(name, mini, DATED)
    customized = renderer.build_supervised_example(marked, TrainOnWhat.CUSTOMIZED)
    answers = renderer.build_supervised_example([USER, ANSWER], TrainOnWhat.ALL_ASSISTANT_MESSAGES)
    assert customized.model_input == answers.model_input
    assert customized.weights.tolist() == answers.weights.tolist()


# DeepSeek


def test_every_deepseek_answer_is_closed_even_an_empty_one(mini: FileTokenizer) -> None:
    calling = Message(role="assistant", content="", tool_calls=(ToolCall(name="f"),))
    for name in ("deepseekv3", "deepseekv3_thinking"):
        for message in (calling, replace(calling, tool_calls=()), ANSWER):
            example = get_renderer(name, mini).build_supervised_example([USER, message])
            assert example.model_input.to_ints()[-1] == mini.token_id("<｜end▁of▁sentence｜>")
            assert example.weights[-1] == 1


def test_deepseek_has_no_place_for_a_later_system_message(mini: FileTokenizer) -> None:
    with pytest.raises(
        RenderError, match=r"messages\[1\]: 'deepseekv3' has no place for a message of 'system'"
    ):
        rendered(mini, "deepseekv3", USER, Message(role="system", content="x"))
    with pytest.raises(RenderError, match="can express only one text in a message of 'user'"):
        rendered(mini, "deepseekv3", Message(role="user", content=(ThinkingPart("x"),)))


def test_marks_in_the_tools_of_a_prefix_are_marks_and_in_its_prompt_are_text(mini: FileTokenizer) -> None:
    mark = "<｜tool▁calls▁begin｜>"
    renderer = get_renderer("deepseekv3", mini)
    (message,) = renderer.create_conversation_prefix_with_tools([SPEC], f"Never write {mark}.")
    assert isinstance(message.parts[-1], MarkupPart)
    ids = renderer.build_generation_prompt([message, USER]).to_ints()
    assert ids.count(mini.token_id(mark)) == 1
    assert mini.decode(ids).count(mark) == 2
    assert renderer.create_conversation_prefix_with_tools([], "x") == [Message(role="system", content="x")]
    broken = replace(message, content=(ThinkingPart("x"), message.parts[-1]))
    with pytest.raises(RenderError, match="a system message of text and tools has another part"):
        renderer.build_generation_prompt([broken, USER])


def test_a_part_of_a_formats_own_is_written_as_text(mini: FileTokenizer) -> None:
    row = message_to_dict(Message(role="system", content=(MarkupPart("<｜tool▁sep｜>"),)))
    assert row["content"] == [{"type": "text", "text": "<｜tool▁sep｜>"}]


def test_deepseek_keeps_reasoning_in_history_if_told_to(mini: FileTokenizer) -> None:
    from crucible_train.renderers.deepseek_v3 import DeepSeekV3ThinkingRenderer

    renderer = DeepSeekV3ThinkingRenderer(mini, strip_thinking_from_history=False)
    thinking = Message(role="assistant", content=(ThinkingPart("hm"), TextPart("Hi")))
    text = mini.decode(renderer.build_generation_prompt([USER, thinking, USER]).to_ints())
    assert "<think>hm</think>Hi" in text
    assert renderer.has_extension_property


def test_a_deepseek_answer_without_its_opening_mark_is_read(mini: FileTokenizer) -> None:
    tokens = mini.encode("why</think>Hi<｜end▁of▁sentence｜>", allow_special=True)
    message, _ = get_renderer("deepseekv3_thinking", mini).parse_response(tokens)
    assert message.parts == (ThinkingPart("why"), TextPart("Hi"))
    tokens = mini.encode("a<think>b</think><｜end▁of▁sentence｜>", allow_special=True)
    message, _ = get_renderer("deepseekv3", mini).parse_response(tokens)
    assert message.parts == (TextPart("a"), ThinkingPart("b"))


# gpt-oss


def test_the_date_is_asked_for_and_part_of_the_identity(mini: FileTokenizer) -> None:
    with pytest.raises(
        ConfigError, match=r"RendererOptions.current_date: 'gpt_oss_low_reasoning' has no current date"
    ):
        get_renderer("gpt_oss_low_reasoning", mini)
    assert "Current date: 2025-01-01\n\nReasoning: low" in rendered(mini, "gpt_oss_low_reasoning", USER)
    later = RendererOptions(current_date="2025-01-02")
    first = get_renderer("gpt_oss_low_reasoning", mini, DATED).digest
    assert first != get_renderer("gpt_oss_low_reasoning", mini, later).digest
    undated = get_renderer("gpt_oss_no_sysprompt", mini)
    assert undated.digest == get_renderer("gpt_oss_no_sysprompt", mini, later).digest


def test_a_result_without_the_tools_name_is_refused(mini: FileTokenizer) -> None:
    with pytest.raises(RenderError, match="needs the name of the tool"):
        rendered(mini, "gpt_oss_no_sysprompt", Message(role="tool", content="x"))
    named = Message(role="tool", content="x", name="functions.f")
    assert "<|start|>functions.f to=assistant" in rendered(mini, "gpt_oss_no_sysprompt", named)


def test_an_answer_of_blank_sections_says_nothing_and_unknown_channels_stay_text(
    mini: FileTokenizer,
) -> None:
    renderer = get_renderer("gpt_oss_no_sysprompt", mini)

    def read(text: str) -> Message:
        return renderer.parse_response(mini.encode(text, allow_special=True))[0]

    assert read("<|channel|>final<|message|><|return|>").content == ""
    assert read("<|channel|>other<|message|>x<|return|>").content == "<|channel|>other<|message|>x"
    broken = read(" to=functions.f<|channel|>commentary<|message|>{no<|call|>")
    assert "not JSON" in broken.unparsed_tool_calls[0].error
    unfinished = read("<|channel|>analysis<|message|>x<|end|><|start|>assistant to=functions.f<|return|>")
    assert unfinished.unparsed_tool_calls[0].raw_text.startswith("<|start|>assistant")
    other = read(" to=someone<|channel|>final<|message|>x<|return|>")
    assert other.text == "x"


@pytest.mark.parametrize(
    ("schema", "declared"),
    [
        ({"type": "array", "items": {"type": "integer"}}, "number[]"),
        ({"oneOf": [{"type": "string"}, {"type": "boolean"}]}, "string | boolean"),
        ({"type": ["string", "number"]}, "string | number"),
        ({"type": "string", "nullable": True}, "string | null"),
        ({"type": "string", "enum": ["a", "b"]}, '"a" | "b"'),
        ({}, "any"),
        (
            {"type": "object", "properties": {"y": {"type": "string"}, "z": {}}, "required": ["y"]},
            "{ y: string, z?: any }",
        ),
    ],
)
def test_a_schema_becomes_a_type(schema: dict[str, Any], declared: str) -> None:
    tool = ToolSpec(name="f", description="", parameters={"type": "object", "properties": {"x": schema}})
    assert declare_tool(tool) == f"type f = (_:\n{{\nx?: {declared},\n}}) => any;"


def test_a_declaration_carries_descriptions_defaults_and_examples() -> None:
    field = {"type": "integer", "title": "X", "description": "how many", "examples": [1], "default": 2}
    parameters = {"type": "object", "description": "all", "properties": {"x": field}, "required": ["x"]}
    assert declare_tool(ToolSpec(name="f", description="does", parameters=parameters)) == (
        "// does\ntype f = (_: // all\n{\n// X\n// \n// how many\n// Examples:\n// - 1\n"
        "x: number, // default: 2\n}) => any;"
    )
    assert declare_tool(ToolSpec(name="f", description="", parameters={})) == "type f = () => any;"


# Nemotron


def test_a_nemotron_tool_names_every_field_of_its_schema(mini: FileTokenizer) -> None:
    parameters = {
        "type": "object",
        "properties": {"x": {"type": "integer", "minimum": 1, "items": [1]}},
        "additionalProperties": False,
    }
    spec = ToolSpec(name="f", description=" ", parameters=parameters)
    (message,) = get_renderer("nemotron3", mini).create_conversation_prefix_with_tools([spec])
    assert (
        "<function>\n<name>f</name>\n<parameters>\n<parameter>\n<name>x</name>\n<type>integer</type>\n"
        "<minimum>1</minimum>\n<items>[1]</items>\n</parameter>\n"
        "<additionalProperties>False</additionalProperties>\n</parameters>\n</function>" in message.text
    )


def test_a_json_call_in_a_qwen3_5_answer_is_read_too(mini: FileTokenizer) -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|im_end|>'
    message, _ = get_renderer("qwen3_5", mini).parse_response(mini.encode(text, allow_special=True))
    assert message.tool_calls == (ToolCall(name="f", arguments="{}"),)


def test_reasoning_only_in_text_counts_where_the_format_reads_it_so(mini: FileTokenizer) -> None:
    closed = Message(role="assistant", content="why</think>Hi")
    assert rendered(mini, "qwen3_5", USER, closed).count("<think>\n\n</think>\n\nwhy</think>Hi") == 1
    inline = Message(role="assistant", content=(TextPart("<think>why</think>Hi"),))
    assert "<think></think><think>why</think>Hi" in rendered(mini, "deepseekv3_thinking", USER, inline)
    assert rendered(mini, "nemotron3", USER, closed).count("<think></think>") == 1


def test_a_prefix_without_tools_is_the_system_prompt_in_every_format(mini: FileTokenizer) -> None:
    for name in ("qwen3_5", "nemotron3"):
        prefix = get_renderer(name, mini).create_conversation_prefix_with_tools([], "Be brief.")
        assert prefix == [Message(role="system", content="Be brief.")]


def test_reasoning_within_the_text_of_history_stays_in_nemotron(mini: FileTokenizer) -> None:
    inline = Message(role="assistant", content="<think>why</think>Hi")
    text = rendered(mini, "nemotron3", USER, inline, USER)
    assert "assistant\n<think></think><think>why</think>Hi<|im_end|>" in text
