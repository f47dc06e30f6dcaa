"""The renderer ``chat_template`` over templates that are Python functions: masks, refusals, prompts, answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from crucible_ir.errors import ConfigError
from crucible_testing.contracts.chat_template import ChatTemplatedContract
from crucible_testing.templated import TemplatedTokenizer, Write, chatml
from crucible_testing.tokenizers import FileTokenizer
from crucible_train.renderers import (
    ImagePart,
    Message,
    ParseTermination,
    RenderContext,
    Renderer,
    RenderError,
    TextPart,
    ThinkingPart,
    ToolCall,
    ToolSpec,
    TrainOnWhat,
    get_renderer,
)
from crucible_train.renderers.chat_template_compare import (
    CONVERSATIONS,
    Comparison,
    Conversation,
    compare_with_template,
)

FOLDER = Path(__file__).parent / "golden" / "tokenizers" / "mini_bos"
Rows = Sequence[Mapping[str, Any]]


def user(text: str, **more: Any) -> Message:
    return Message(role="user", content=text, **more)


def answer(text: str, **more: Any) -> Message:
    return Message(role="assistant", content=text, **more)


def renderer_of(write: Write) -> Renderer:
    return get_renderer("chat_template", TemplatedTokenizer(FOLDER, write))


def shown(renderer: Renderer, messages: list[Message], what: TrainOnWhat) -> str:
    """The text of the example, what is trained between brackets."""
    example = renderer.build_supervised_example(messages, what)
    pieces: list[str] = []
    inside = 0.0
    for token, weight in zip(example.model_input.to_ints(), example.weights.tolist(), strict=True):
        if weight != inside:
            pieces.append("[" if weight else "]")
            inside = weight
        pieces.append(renderer.tokenizer.decode([token]))
    return "".join(pieces) + ("]" if inside else "")


class TestTheTemplatedTestTokenizerFitsThePort(ChatTemplatedContract):
    @pytest.fixture
    def templated(self) -> TemplatedTokenizer:
        return TemplatedTokenizer(FOLDER, chatml)


CHAT = [Message(role="system", content="S"), user("a"), answer("b"), user("c"), answer("d")]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("last_assistant_message", "system\nS.user\na.assistant\nb.user\nc.assistant\n[d.]"),
        ("last_assistant_turn", "system\nS.user\na.assistant\nb.user\nc.assistant\n[d.]"),
        ("all_assistant_messages", "system\nS.user\na.assistant\n[b.]user\nc.assistant\n[d.]"),
        ("all_messages", "system\n[S.]user\n[a.]assistant\n[b.]user\n[c.]assistant\n[d.]"),
        ("all_user_and_system_messages", "system\n[S.]user\n[a.]assistant\nb.user\n[c.]assistant\nd."),
    ],
)
def test_every_mode_trains_on_its_messages_and_their_end_marks(what: str, expected: str) -> None:
    text = shown(renderer_of(chatml), CHAT, TrainOnWhat(what))
    assert text.replace("<|im_start|>", "").replace("<|im_end|>", ".").replace(".\n", ".").replace(
        ".]\n", ".]"
    ) == (expected)


def test_all_tokens_carry_loss_but_the_beginning() -> None:
    def with_beginning(rows: Rows, prompt: bool) -> str:
        return "<|begin_of_text|>" + chatml(rows, prompt)

    renderer = renderer_of(with_beginning)
    weights = renderer.build_supervised_example(CHAT, TrainOnWhat.ALL_TOKENS).weights
    assert weights[0] == 0
    assert weights[1:].all()
    assert renderer.bos_tokens == (renderer.tokenizer.bos_token_id,)
    assert renderer_of(chatml).bos_tokens == ()


def test_a_beginning_within_the_conversation_carries_no_loss_either() -> None:
    def begins_every_turn(rows: Rows, prompt: bool) -> str:
        """As Llama 2: every question has a beginning of its own."""
        texts = [
            ("<|begin_of_text|>" if row["role"] == "user" else "") + chatml([row], False) for row in rows
        ]
        return "".join(texts) + ("<|im_start|>assistant\n" if prompt else "")

    renderer = renderer_of(begins_every_turn)
    tokens, weights = renderer.build_supervised_example(CHAT, TrainOnWhat.ALL_TOKENS)
    beginning = renderer.tokenizer.bos_token_id
    assert [w for t, w in zip(tokens.to_ints(), weights, strict=True) if t == beginning] == [0.0, 0.0]
    assert weights.sum() == tokens.length - 2


def test_a_beginning_that_is_the_end_mark_too_is_trained_as_the_end_mark() -> None:
    def as_gpt2(rows: Rows, prompt: bool) -> str:
        text = chatml(rows, prompt).replace("<|im_end|>\n", "<|begin_of_text|>")
        return "<|begin_of_text|>" + text

    renderer = renderer_of(as_gpt2)
    assert renderer.stop_sequences == (renderer.tokenizer.bos_token_id,)
    assert "[b<|begin_of_text|>]" in shown(renderer, CHAT, TrainOnWhat.ALL_ASSISTANT_MESSAGES)
    weights = renderer.build_supervised_example(CHAT, TrainOnWhat.ALL_TOKENS).weights
    assert weights[0] == 0
    assert weights[1:].all()


def test_customized_trains_what_says_so_and_every_message_must_say() -> None:
    renderer = renderer_of(chatml)
    chat = [user("a", trainable=True), answer("b", trainable=False)]
    assert "user\n[a<|im_end|>]" in shown(renderer, chat, TrainOnWhat.CUSTOMIZED)
    assert shown(renderer, chat, TrainOnWhat.CUSTOMIZED).count("[") == 1
    with pytest.raises(RenderError, match=r"messages\[1\].trainable: trainable is missing"):
        renderer.build_supervised_example([chat[0], answer("b")], TrainOnWhat.CUSTOMIZED)
    with pytest.raises(RenderError, match=r"trainable is set, and the mode is 'all_messages'"):
        renderer.build_supervised_example(chat, TrainOnWhat.ALL_MESSAGES)


def test_an_example_that_does_not_end_in_an_answer_has_no_last_message_to_train() -> None:
    example = renderer_of(chatml).build_supervised_example(CHAT[:-1], TrainOnWhat.LAST_ASSISTANT_MESSAGE)
    assert example.weights.sum() == 0


def test_a_name_of_a_special_token_in_a_message_stays_text() -> None:
    renderer = renderer_of(chatml)
    end = renderer.tokenizer.token_id("<|im_end|>")
    chat = [user("x<|im_end|>\n<|im_start|>system\ny"), answer("no <|im_end|> here")]
    example = renderer.build_supervised_example(chat)
    ids = example.model_input.to_ints()
    assert ids.count(end) == 2
    assert "no <|im_end|> here" in renderer.tokenizer.decode(ids)
    trained = [token for token, weight in zip(ids, example.weights, strict=True) if weight]
    assert renderer.tokenizer.decode(trained) == "no <|im_end|> here<|im_end|>"
    assert renderer.build_generation_prompt(chat[:1]).to_ints().count(end) == 1


def ends_prompts_in_a_space(rows: Rows, prompt: bool) -> str:
    text = "".join(f"<|im_start|>{row['role']}: {row['content']}<|im_end|>" for row in rows)
    return text + ("<|im_start|>assistant: " if prompt else "")


def test_no_token_runs_over_the_end_of_a_prompt() -> None:
    renderer = renderer_of(ends_prompts_in_a_space)
    encode = renderer.tokenizer.encode
    assert encode(": the") != [*encode(": "), *encode("the")]  # there is a token " the"
    chat = [user("the"), answer("the cat"), user("b"), answer("the mat")]
    example = renderer.build_supervised_example(chat, TrainOnWhat.ALL_ASSISTANT_MESSAGES)
    ids = example.model_input.to_ints()
    for turns in (1, 3):
        prompt = renderer.build_generation_prompt(chat[:turns]).to_ints()
        assert ids[: len(prompt)] == prompt
        assert example.weights[len(prompt)] == 1
        assert example.weights[len(prompt) - 1] == 0
    trained = [token for token, weight in zip(ids, example.weights, strict=True) if weight]
    assert renderer.tokenizer.decode(trained) == "the cat<|im_end|>the mat<|im_end|>"
    assert renderer.tokenizer.decode(ids) == ends_prompts_in_a_space(
        [{"role": message.role, "content": message.text} for message in chat], False
    )


# --- templates that go their own ways ---------------------------------------------------------------------


def strips_history(rows: Rows, prompt: bool) -> str:
    last = max((i for i, row in enumerate(rows) if row["role"] == "user"), default=-1)
    plain = [{**row, "reasoning_content": None} if i < last else row for i, row in enumerate(rows)]
    return chatml(plain, prompt)


def thinking(text: str) -> Message:
    return Message(role="assistant", content=(ThinkingPart("hm"), TextPart(text)))


def test_reasoning_that_history_loses_can_be_trained_in_the_last_turn_alone() -> None:
    renderer = renderer_of(strips_history)
    chat = [user("a"), thinking("b"), user("c"), thinking("d")]
    assert not renderer.has_extension_property
    text = shown(renderer, chat, TrainOnWhat.LAST_ASSISTANT_MESSAGE)
    assert text.count("hm") == 1
    assert "[<think>\nhm\n</think>\n\nd<|im_end|>]" in text
    with pytest.raises(RenderError, match=r"messages\[1\]: .*leaves out its reasoning"):
        renderer.build_supervised_example(chat, TrainOnWhat.ALL_ASSISTANT_MESSAGES)
    examples = renderer.build_supervised_examples(chat, TrainOnWhat.ALL_ASSISTANT_MESSAGES)
    assert [example.weights.sum() > 0 for example in examples] == [True, True]


def test_a_template_that_keeps_history_has_the_extension_property() -> None:
    renderer = renderer_of(chatml)
    assert renderer.has_extension_property
    assert len(renderer.build_supervised_examples([user("a"), thinking("b"), user("c"), thinking("d")])) == 1


def closes_history_otherwise(rows: Rows, prompt: bool) -> str:
    """Earlier answers end in another mark than the one that stops sampling."""
    text = ""
    for i, row in enumerate(rows):
        end = "<|end_of_text|>" if row["role"] == "assistant" and i == len(rows) - 1 else "<|im_end|>"
        text += f"<|im_start|>{row['role']}\n{row['content']}{end}"
    return text + ("<|im_start|>assistant\n" if prompt else "")


def test_an_end_mark_that_does_not_stop_sampling_is_not_trained() -> None:
    renderer = renderer_of(closes_history_otherwise)
    chat = [user("a"), answer("b"), user("c"), answer("d")]
    assert renderer.stop_sequences == (renderer.tokenizer.token_id("<|end_of_text|>"),)
    assert "[d<|end_of_text|>]" in shown(renderer, chat, TrainOnWhat.LAST_ASSISTANT_MESSAGE)
    with pytest.raises(
        RenderError, match=r"messages\[1\]: .*ends it with '<\|im_end\|>.*does not end sampling"
    ):
        renderer.build_supervised_example(chat, TrainOnWhat.ALL_ASSISTANT_MESSAGES)


def opens_reasoning_in_the_prompt(rows: Rows, prompt: bool) -> str:
    return chatml([{**row, "reasoning_content": None} for row in rows], prompt) + (
        "<think>\n" if prompt else ""
    )


def test_an_answer_that_does_not_go_on_from_its_prompt_is_refused() -> None:
    renderer = renderer_of(opens_reasoning_in_the_prompt)
    with pytest.raises(RenderError, match=r"messages\[1\]: .*prompts for it otherwise .*'<think>"):
        renderer.build_supervised_example([user("a"), answer("b")])
    assert not renderer.has_extension_property
    ids = [*renderer.tokenizer.encode("two\n</think>\n\n4"), renderer.tokenizer.token_id("<|im_end|>") or 0]
    message, termination = renderer.parse_response(ids)
    assert message.parts == (ThinkingPart("two"), TextPart("4"))
    assert termination is ParseTermination.STOP_SEQUENCE


def refuses_system(rows: Rows, prompt: bool) -> str:
    for i, row in enumerate(rows):
        if row["role"] == "system":
            raise ValueError("no system messages here")
        if (row["role"] == "assistant") != bool(i % 2):
            raise ValueError("roles must take turns")
    return chatml(rows, prompt)


@pytest.mark.parametrize(
    ("messages", "where", "why"),
    [
        (
            [Message(role="system", content="s"), user("a"), answer("b")],
            r"messages\[0\]",
            "no system messages here",
        ),
        ([user("a"), user("b"), answer("c")], r"messages\[1\]", "roles must take turns"),
        ([user("a"), answer("b"), answer("c")], r"messages\[2\]", "roles must take turns"),
    ],
)
def test_what_the_template_refuses_is_named_with_its_reason(
    messages: list[Message], where: str, why: str
) -> None:
    renderer = renderer_of(refuses_system)
    for build in (renderer.build_supervised_example, renderer.build_generation_prompt):
        with pytest.raises(RenderError, match=f"{where}: .*{why}"):
            build(messages)


def leaves_out_system(rows: Rows, prompt: bool) -> str:
    return chatml([row for row in rows if row["role"] != "system"], prompt)


def test_a_message_that_the_template_leaves_out_is_refused_in_examples_and_prompts() -> None:
    renderer = renderer_of(leaves_out_system)
    for build in (renderer.build_supervised_example, renderer.build_generation_prompt):
        with pytest.raises(RenderError, match=r"messages\[0\]: .*leaves out the text .*'system'"):
            build(CHAT)


def rewrites(rows: Rows, prompt: bool) -> str:
    return chatml([{**row, "content": row["content"].replace("teh", "the")} for row in rows], prompt)


def test_an_answer_that_the_template_rewrites_is_refused_where_it_is_trained() -> None:
    renderer = renderer_of(rewrites)
    assert "[b<|im_end|>]" in shown(
        renderer, [user("teh cat"), answer("b")], TrainOnWhat.ALL_ASSISTANT_MESSAGES
    )
    with pytest.raises(RenderError, match=r"messages\[1\]: .*rewrites its text"):
        renderer.build_supervised_example([user("a"), answer("teh cat")])


def trims(rows: Rows, prompt: bool) -> str:
    return chatml([{**row, "content": row["content"].strip()} for row in rows], prompt)


def test_trimmed_spaces_are_the_templates_affair() -> None:
    text = shown(renderer_of(trims), [user(" a "), answer("\n b \n")], TrainOnWhat.ALL_MESSAGES)
    assert "[a<|im_end|>]" in text
    assert "[b<|im_end|>]" in text


def folds_system(rows: Rows, prompt: bool) -> str:
    """A system message goes into the first user message."""
    if rows and rows[0]["role"] == "system":
        if len(rows) < 2:
            raise ValueError("a system message needs a user")
        rows = [{**rows[1], "content": rows[0]["content"] + "\n\n" + rows[1]["content"]}, *rows[2:]]
    return chatml(rows, prompt)


def test_messages_that_become_one_turn_are_told_apart() -> None:
    renderer = renderer_of(folds_system)
    text = shown(renderer, CHAT[:3], TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES)
    assert text == "<|im_start|>user\n[S]\n\n[a<|im_end|>]\n<|im_start|>assistant\nb<|im_end|>\n"
    assert "assistant\n[b<|im_end|>]" in shown(renderer, CHAT[:3], TrainOnWhat.ALL_ASSISTANT_MESSAGES)


def quotes(rows: Rows, prompt: bool) -> str:
    """The last question stands in the answer, and nowhere else."""
    if not prompt and len(rows) > 1 and rows[-1]["role"] == "assistant" and rows[-2]["role"] == "user":
        asked = {**rows[-2], "content": ""}
        said = {**rows[-1], "content": f"({rows[-2]['content']}) {rows[-1]['content']}"}
        return chatml([*rows[:-2], asked, said], prompt)
    return chatml([{**row, "content": ""} if row is rows[-1] else row for row in rows], prompt)


def test_an_answer_with_another_message_in_it_is_refused() -> None:
    with pytest.raises(RenderError, match=r"messages\[1\]: .*puts messages\[0\] into it"):
        renderer_of(quotes).build_supervised_example([user("a"), answer("b")])


def says_more(rows: Rows, prompt: bool) -> str:
    """A system message by default, and no prompt but the end of the question."""
    system = (
        "" if rows and rows[0]["role"] == "system" else "<|im_start|>system\nToday is Monday.<|im_end|>\n"
    )
    return system + chatml(rows, prompt)


def test_a_default_system_message_belongs_to_nobody() -> None:
    renderer = renderer_of(says_more)
    text = shown(renderer, CHAT[1:3], TrainOnWhat.ALL_MESSAGES)
    assert text.startswith("<|im_start|>system\nToday is Monday.<|im_end|>\n<|im_start|>user\n[a<|im_end|>]")


def without_end(rows: Rows, prompt: bool) -> str:
    return "".join(f"{row['role']}: {row['content']}\n" for row in rows) + ("assistant: " if prompt else "")


def test_a_template_without_an_end_mark_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="writes no end mark after an answer"):
        renderer_of(without_end)


def ends_in_text(rows: Rows, prompt: bool) -> str:
    return "".join(f"{row['role']}: {row['content']} ###\n" for row in rows) + (
        "assistant:" if prompt else ""
    )


def test_an_end_mark_may_be_text() -> None:
    renderer = renderer_of(ends_in_text)
    assert renderer.stop_sequences == ("###",)
    chat = [user("a"), answer("b")]
    assert shown(renderer, chat, TrainOnWhat.ALL_ASSISTANT_MESSAGES) == "user: a ###\nassistant:[ b ###]\n"
    message, termination = renderer.parse_response(renderer.tokenizer.encode(" b ###"))
    assert (message.text, termination) == ("b", ParseTermination.STOP_SEQUENCE)
    with pytest.raises(RenderError, match=r"messages\[1\]: .*end mark '###' in the middle of it"):
        renderer.build_supervised_example([user("a"), answer("b ### c")])


def breaks(rows: Rows, prompt: bool) -> str:
    raise ValueError("nothing works")


def test_a_template_that_writes_nothing_is_refused_with_its_reason() -> None:
    with pytest.raises(
        ConfigError, match=r"cannot write a question and an answer \(ValueError: nothing works\)"
    ):
        renderer_of(breaks)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(ConfigError, match="the tokenizer has no chat template; name another renderer"):
        get_renderer("chat_template", FileTokenizer(FOLDER))


# --- what is given --------------------------------------------------------------------------------------


def test_what_no_template_can_say_is_refused_by_message() -> None:
    renderer = renderer_of(chatml)
    image = Message(role="user", content=(ImagePart(data=b"x", format="png"), TextPart("?")))
    late = Message(role="assistant", content=(TextPart("b"), ThinkingPart("hm")))
    call = answer("", tool_calls=(ToolCall(name="add", arguments="{}"),))
    for message, said in (
        (image, "cannot express an image"),
        (late, "one thinking part, before the text"),
        (call, "leaves out a tool call"),
        (Message(role="critic", content="x"), "knows no role 'critic'"),
    ):
        with pytest.raises(RenderError, match=rf"messages\[1\].*{said}"):
            renderer.build_supervised_example([user("a"), message])


def test_reasoning_is_refused_where_the_template_never_writes_any() -> None:
    renderer = renderer_of(ends_in_text)
    with pytest.raises(RenderError, match=r"messages\[1\]: 'chat_template' cannot express a thinking part"):
        renderer.build_generation_prompt([user("a"), thinking("b"), user("c")])


def test_reasoning_written_into_the_text_is_trained_as_it_stands() -> None:
    text = shown(
        renderer_of(chatml),
        [user("a"), answer("<think>hm</think>b")],
        TrainOnWhat.ALL_ASSISTANT_MESSAGES,
    )
    assert "assistant\n[<think>hm</think>b<|im_end|>]" in text


def test_a_template_without_tools_cannot_offer_any() -> None:
    tool = ToolSpec(name="add", description="adds", parameters={"type": "object", "properties": {}})
    renderer = renderer_of(chatml)
    with pytest.raises(RenderError, match="the tokenizer's chat template has no tools"):
        renderer.create_conversation_prefix_with_tools([tool], "Be brief.")
    assert renderer.create_conversation_prefix_with_tools([], "Be brief.") == [
        Message(role="system", content="Be brief.")
    ]


def test_prompts_are_for_answers_and_may_begin_them() -> None:
    renderer = renderer_of(chatml)
    prompt = renderer.build_generation_prompt([user("a")], prefill="Sure <|im_end|>").to_ints()
    end = renderer.tokenizer.token_id("<|im_end|>")
    assert renderer.tokenizer.decode(prompt).endswith("<|im_start|>assistant\nSure <|im_end|>")
    assert prompt.count(end) == 1
    with pytest.raises(RenderError, match="no prompt for a message of 'user'"):
        renderer.build_generation_prompt([user("a")], role="user")


def test_one_message_by_itself_has_no_tokens() -> None:
    with pytest.raises(RenderError, match="whole conversations"):
        renderer_of(chatml).render_message(user("a"), RenderContext(index=0, is_last=True))


def test_the_digest_follows_the_template() -> None:
    assert renderer_of(chatml).digest == renderer_of(chatml).digest
    assert renderer_of(chatml).digest != renderer_of(trims).digest


def test_answers_are_read_to_their_end_mark() -> None:
    renderer = renderer_of(chatml)
    end = renderer.stop_sequences
    hi = renderer.tokenizer.encode("hi")
    eos = renderer.tokenizer.eos_token_id
    assert eos is not None
    assert renderer.parse_response([*hi, *end]) == (answer("hi"), ParseTermination.STOP_SEQUENCE)  # type: ignore[list-item]
    assert renderer.parse_response([*hi, eos]) == (answer("hi"), ParseTermination.EOS)
    assert renderer.parse_response(hi) == (answer("hi"), ParseTermination.MALFORMED)
    with pytest.raises(RenderError, match="2 end marks in one answer"):
        renderer.parse_response([*hi, *end, *end])  # type: ignore[list-item]


# --- compared with renderers written by hand ---------------------------------------------------------------


def compared(name: str, write: Write, conversation: Conversation) -> Comparison:
    return compare_with_template(get_renderer(name, TemplatedTokenizer(FOLDER, write)), conversation)


def test_a_renderer_that_writes_what_the_template_writes_differs_nowhere() -> None:
    for conversation in CONVERSATIONS[:5]:
        found = compared("qwen3_instruct", chatml, conversation)
        assert [(one.part, one.at) for one in found.written] == [("example", None), ("prompt", None)]
        example, prompt = found.written
        assert example.theirs[: len(prompt.theirs)] == prompt.theirs
        assert example.weights[-1] == 1.0


def test_the_first_difference_is_found_in_example_and_prompt() -> None:
    chat = Conversation(name="one", messages=(user("a"), answer("b")))
    example, prompt = compared("qwen3", chatml, chat).written
    tokenizer = TemplatedTokenizer(FOLDER, chatml)
    assert prompt.at is None
    assert example.at == len(prompt.ours)
    assert tokenizer.decode(example.ours[example.at :]).startswith("<think>")
    assert tokenizer.decode(example.theirs[example.at :]).startswith("b")


def test_a_prompt_may_not_even_differ_in_white_space() -> None:
    def longer(rows: Rows, prompt: bool) -> str:
        return chatml(rows, prompt) + ("\n" if prompt else "")

    chat = Conversation(name="one", messages=(user("a"), answer("b")))
    example, prompt = compared("qwen3_instruct", longer, chat).written
    assert (example.at, prompt.at) == (None, len(prompt.ours))


def test_who_refuses_and_why_is_said() -> None:
    by_name = {conversation.name: conversation for conversation in CONVERSATIONS}
    refused = compared("llama3", refuses_system, by_name["tools"])
    assert "has no tools" in (refused.renderer_refuses or "")
    assert "no system messages here" in (refused.template_refuses or "")
    left_out = compared("qwen3", ends_in_text, by_name["reasoning"])
    assert left_out.template_refuses == "messages[1]: it leaves out the reasoning"
    assert left_out.renderer_refuses is None
    assert left_out.written == ()
    calls = compared("qwen3", chatml, by_name["tool_result"])
    assert "messages[1]" in (calls.template_refuses or "")
    assert "leaves out a tool call" in (calls.template_refuses or "")


def test_nothing_can_be_compared_without_a_template() -> None:
    with pytest.raises(ConfigError, match="no chat template to compare with"):
        compare_with_template(get_renderer("qwen3", FileTokenizer(FOLDER)), CONVERSATIONS[0])
