"""The renderer ``chat_template`` over Jinja templates: the tokens of transformers, and masks of what is sampled."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_ir import ConfigError, NotFoundError
from crucible_testing.contracts.chat_template import ChatTemplatedContract
from crucible_torch.template_process import TemplateProcess, shared_process
from crucible_torch.tokenizer import FastTokenizer, load_tokenizer
from crucible_torch.tokenizer_files import parts_of
from crucible_train.ports import TemplateCall
from crucible_train.renderers import (
    Message,
    ParseTermination,
    Renderer,
    RendererOptions,
    RenderError,
    TextPart,
    ThinkingPart,
    ToolCall,
    ToolSpec,
    TrainOnWhat,
    get_renderer,
)

TEMPLATES = Path(__file__).parent / "templates"
MARKS = (
    "<|endoftext|> <|im_start|> <|im_end|> <s> </s> [INST] [/INST] <|begin_of_text|> <|start_header_id|> "
    "<|end_header_id|> <|eot_id|> <start_of_turn> <end_of_turn>"
).split()
STOPS = {
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "mistral": "</s>",
    "gemma": "<end_of_turn>",
    "qwen": "<|im_end|>",
    "marked": "<|im_end|>",
    "phi": "<|eot_id|>",
}
TRAINABLE = list(STOPS)
DATED = RendererOptions(current_date="2025-01-02")


@cache
def loaded(folder: Path) -> tuple[Any, FastTokenizer]:
    """The tokenizer as transformers has it, and ours."""
    from transformers import AutoTokenizer

    source = AutoTokenizer.from_pretrained(str(folder))
    return source, FastTokenizer(parts_of(source))


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level vocabulary with the marks of all formats and no template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=MARKS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(["the cat sat on the mat\n\nand  the dog ran\n\n\n"] * 50, trainer)
    folder = tmp_path_factory.mktemp("bare")
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def with_template(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of that vocabulary with a template, given by its source."""

    @cache
    def made(source: str) -> Path:
        folder = tmp_path_factory.mktemp("templated") / "model"
        shutil.copytree(bare, folder)
        (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
        return folder

    return made


@pytest.fixture(scope="session")
def renderer_of(with_template: Callable[[str], Path]) -> Callable[[str], Renderer]:
    """The renderer over the template of that name."""

    @cache
    def made(name: str) -> Renderer:
        source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        return get_renderer("chat_template", loaded(with_template(source))[1], DATED)

    return made


@pytest.fixture(scope="session")
def theirs(with_template: Callable[[str], Path]) -> Callable[[str], Any]:
    """The tokenizer of transformers with the template of that name."""

    def made(name: str) -> Any:
        return loaded(with_template((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")))[0]

    return made


def user(text: str) -> Message:
    return Message(role="user", content=text)


def answer(text: str, **more: Any) -> Message:
    return Message(role="assistant", content=text, **more)


def system(text: str) -> Message:
    return Message(role="system", content=text)


def rows_of(messages: list[Message]) -> list[dict[str, Any]]:
    """As a user of transformers writes them."""
    rows = []
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": message.text}
        for part in message.parts:
            if isinstance(part, ThinkingPart):
                row["reasoning_content"] = part.thinking
        if message.tool_calls:
            row["tool_calls"] = [
                {"type": "function", "function": {"name": c.name, "arguments": c.decoded_arguments()}}
                for c in message.tool_calls
            ]
        if message.name is not None:
            row["name"] = message.name
        rows.append(row)
    return rows


def their_ids(tokenizer: Any, messages: list[Message], *, prompt: bool = False, **more: Any) -> list[int]:
    out = tokenizer.apply_chat_template(
        rows_of(messages), add_generation_prompt=prompt, return_dict=True, **more
    )
    ids: list[int] = out["input_ids"]
    return ids


def trained_text(renderer: Renderer, messages: list[Message], what: TrainOnWhat) -> str:
    example = renderer.build_supervised_example(messages, what)
    ids = example.model_input.to_ints()
    return renderer.tokenizer.decode([t for t, w in zip(ids, example.weights, strict=True) if w])


def check_what_is_trained_is_what_is_sampled(renderer: Renderer, messages: list[Message]) -> None:
    """Prompt and trained tokens begin the whole, for every answer and for the last alone."""
    example = renderer.build_supervised_example(messages, TrainOnWhat.ALL_ASSISTANT_MESSAGES)
    ids = example.model_input.to_ints()
    trained = [at for at, weight in enumerate(example.weights) if weight]
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        start = len(renderer.build_generation_prompt(messages[:index]).to_ints())
        assert renderer.build_generation_prompt(messages[:index]).to_ints() == ids[:start]
        end = next(at for at in range(start, len(ids)) if ids[at] in renderer.stop_sequences) + 1
        assert [at for at in trained if start <= at < end] == list(range(start, end))
        trained = [at for at in trained if not start <= at < end]
        parsed, termination = renderer.parse_response(ids[start:end])
        assert termination is ParseTermination.STOP_SEQUENCE
        assert parsed.text.strip() == message.text.strip()
    assert trained == []


# --- the adapter -----------------------------------------------------------------------------------------


class TestTheTokenizerOfTransformersFitsThePort(ChatTemplatedContract):
    @pytest.fixture
    def templated(self, renderer_of: Callable[[str], Renderer]) -> Any:
        return renderer_of("chatml").tokenizer


def test_a_tokenizer_without_a_template_says_so(bare: Path) -> None:
    tokenizer = loaded(bare)[1]
    assert tokenizer.chat_template is None
    with pytest.raises(NotFoundError, match="the tokenizer has no chat template"):
        tokenizer.render_chats([TemplateCall(messages=())])
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        get_renderer("chat_template", tokenizer)


def test_of_several_templates_the_one_for_tools_is_used_with_tools(bare: Path, tmp_path: Path) -> None:
    folder = tmp_path / "several"
    shutil.copytree(bare, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    chatml = (TEMPLATES / "chatml.jinja").read_text()
    offering = "{{ 'tools:' + tools[0].function.name }}" + chatml
    config["chat_template"] = [
        {"name": "default", "template": chatml},
        {"name": "tool_use", "template": offering},
    ]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    renderer = get_renderer("chat_template", load_tokenizer(str(folder), local_files_only=True))
    tool = ToolSpec(name="add", description="", parameters={})
    prefix = renderer.create_conversation_prefix_with_tools([tool])
    text = renderer.tokenizer.decode(renderer.build_generation_prompt([*prefix, user("a")]).to_ints())
    assert text.startswith("tools:add<|im_start|>user\na")


CALL = TemplateCall(messages=({"role": "user", "content": "a"},))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% include '/etc/passwd' %}", "TypeError: no loader"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ raise_exception('not like this') }}", "TemplateError: not like this"),
        ("{{ messages[7].content.title }}", "UndefinedError"),
        ("{% if %}", "TemplateSyntaxError"),
    ],
)
def test_what_a_template_may_not_do_is_an_error_with_its_reason(
    with_template: Callable[[str], Path], source: str, said: str
) -> None:
    text = loaded(with_template(source))[1].render_chats([CALL])[0]
    assert said in (text.error or "")
    with pytest.raises(ConfigError, match="cannot write a question and an answer"):
        get_renderer("chat_template", loaded(with_template(source))[1])


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HUGE = "{{ ('a' * 99999 * 99999) | length }}"


def write(process: TemplateProcess, source: str) -> str:
    sources = {"plain": source, "tools": source}
    text = process.render(sources, [CALL], variables={}, current_date=None)[0]
    return text.error or text.text


def test_a_template_that_does_not_end_or_takes_all_memory_is_stopped_and_the_next_one_runs() -> None:
    process = TemplateProcess(limit_s=1.0)
    try:
        assert write(process, "{{ messages[0].content }}") == "a"
        assert write(process, ENDLESS) == "it did not end within 1 s"
        assert write(process, "again {{ messages[0].content }}") == "again a"
        assert write(process, HUGE) == "it takes too much memory"
        assert write(process, "{{ 'a' * 20000000 }}") == "it wrote 20000000 characters"
        assert write(process, "still {{ messages[0].content }}") == "still a"
    finally:
        process.close()


def test_an_answer_that_was_not_waited_for_is_not_taken_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = TemplateProcess()

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    try:
        assert write(process, "{{ messages[0].content }}") == "a"
        with monkeypatch.context() as patched:
            patched.setattr("crucible_torch.template_process.select.select", interrupted)
            with pytest.raises(KeyboardInterrupt):
                write(process, "first")
        assert write(process, "second") == "second"
    finally:
        process.close()


def test_the_process_of_this_program_may_end_and_comes_back(renderer_of: Callable[[str], Renderer]) -> None:
    before = renderer_of("chatml").build_generation_prompt([user("a")])
    shared_process().close()
    assert renderer_of("chatml").build_generation_prompt([user("a")]) == before


def test_a_template_that_names_the_day_needs_one_and_is_told_it(
    renderer_of: Callable[[str], Renderer], theirs: Callable[[str], Any]
) -> None:
    renderer = renderer_of("dated")
    text = renderer.tokenizer.decode(renderer.build_generation_prompt([user("a")]).to_ints())
    assert "Today is 02 Jan 2025 (2/1/25)" in text
    other = get_renderer("chat_template", renderer.tokenizer, RendererOptions(current_date="2025-01-03"))
    assert other.digest != renderer.digest
    with pytest.raises(ConfigError, match="asks for the current date"):
        get_renderer("chat_template", renderer.tokenizer)
    with pytest.raises(ConfigError, match="'tomorrow' is no day"):
        get_renderer("chat_template", renderer.tokenizer, RendererOptions(current_date="tomorrow"))
    today = re.compile(r"Today is .*?\)")
    ours = today.sub("", text)
    assert today.sub("", theirs("dated").decode(their_ids(theirs("dated"), [user("a")], prompt=True))) == ours


# --- masks -----------------------------------------------------------------------------------------------

words = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Co"], exclude_characters="\0"),
    max_size=12,
) | st.sampled_from(
    ["the cat", " a ", "\n\nb\n", "<|im_start", "x <think> y", "{{ 1 }}", "{% if %}", "é🙂", "1. a\n"]
)
plain = words.filter(lambda text: "</think>" not in text and not any(mark in text for mark in MARKS))
chats = st.lists(st.tuples(plain, plain), min_size=1, max_size=3).map(
    lambda pairs: [make(text) for pair in pairs for make, text in zip((user, answer), pair, strict=True)]
)


@pytest.mark.parametrize("name", [*TRAINABLE, "strips"])
def test_the_tokens_are_those_of_apply_chat_template(
    renderer_of: Callable[[str], Renderer], theirs: Callable[[str], Any], name: str
) -> None:
    renderer, tokenizer = renderer_of(name), theirs(name)

    @settings(max_examples=60)
    @given(chats)
    def check(messages: list[Message]) -> None:
        expected = their_ids(tokenizer, messages[:-1], prompt=True)
        prompt = renderer.build_generation_prompt(messages[:-1]).to_ints()
        assert prompt == expected or crosses_a_prompt(tokenizer, messages[:-1], expected)
        assert tokenizer.decode(prompt) == tokenizer.decode(expected)
        if name == "strips":
            return
        whole = their_ids(tokenizer, messages)
        ids = renderer.build_supervised_example(messages).model_input.to_ints()
        assert ids == whole or crosses_a_prompt(tokenizer, messages, whole)
        assert tokenizer.decode(ids) == tokenizer.decode(whole)

    check()


def crosses_a_prompt(tokenizer: Any, messages: list[Message], whole: list[int]) -> bool:
    """Whether a token of the whole runs over the end of the prompt of one of its answers."""
    prompts = [
        their_ids(tokenizer, messages[:index], prompt=True)
        for index, message in enumerate(messages)
        if message.role == "assistant"
    ]
    return any(whole[: len(prompt)] != prompt for prompt in prompts)


@pytest.mark.parametrize("name", TRAINABLE)
def test_what_is_trained_is_what_is_sampled(renderer_of: Callable[[str], Renderer], name: str) -> None:
    @settings(max_examples=60)
    @given(chats)
    def check(messages: list[Message]) -> None:
        check_what_is_trained_is_what_is_sampled(renderer_of(name), messages)

    check()


@pytest.mark.parametrize("name", [name for name in TRAINABLE if name != "qwen"])
def test_what_is_trained_spells_the_answer_and_its_end_mark(
    renderer_of: Callable[[str], Renderer], name: str
) -> None:
    renderer = renderer_of(name)
    trims = name in ("llama3", "gemma", "mistral")

    @settings(max_examples=60)
    @given(chats)
    def check(messages: list[Message]) -> None:
        answers = [message.text for message in messages if message.role == "assistant"]
        space = " " if name == "mistral" else ""
        expected = "".join(space + (text.strip() if trims else text) + STOPS[name] for text in answers)
        assert trained_text(renderer, messages, TrainOnWhat.ALL_ASSISTANT_MESSAGES) == expected
        last = space + (answers[-1].strip() if trims else answers[-1]) + STOPS[name]
        assert trained_text(renderer, messages, TrainOnWhat.LAST_ASSISTANT_MESSAGE) == last

    check()


@pytest.mark.parametrize("name", TRAINABLE)
def test_modes_part_the_conversation_between_them(renderer_of: Callable[[str], Renderer], name: str) -> None:
    renderer = renderer_of(name)

    @settings(max_examples=40)
    @given(chats)
    def check(messages: list[Message]) -> None:
        weights = {
            what: renderer.build_supervised_example(messages, what).weights.sum()
            for what in set(TrainOnWhat) - {TrainOnWhat.CUSTOMIZED}
        }
        customized = [replace(message, trainable=i % 2 == 1) for i, message in enumerate(messages)]
        assert weights[TrainOnWhat.ALL_MESSAGES] == (
            weights[TrainOnWhat.ALL_ASSISTANT_MESSAGES] + weights[TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES]
        )
        assert trained_text(renderer, customized, TrainOnWhat.CUSTOMIZED) == trained_text(
            renderer, messages, TrainOnWhat.ALL_ASSISTANT_MESSAGES
        )
        assert weights[TrainOnWhat.ALL_TOKENS] >= weights[TrainOnWhat.ALL_MESSAGES]

    check()


@pytest.mark.parametrize("name", TRAINABLE)
def test_names_of_special_tokens_in_messages_make_no_special_token(
    renderer_of: Callable[[str], Renderer], name: str
) -> None:
    renderer = renderer_of(name)

    @settings(max_examples=30)
    @given(st.sampled_from(MARKS), plain)
    def check(mark: str, text: str) -> None:
        def specials(messages: list[Message]) -> list[int]:
            ids = renderer.build_supervised_example(messages, TrainOnWhat.ALL_MESSAGES).model_input.to_ints()
            return [token for token in ids if token in renderer.tokenizer.all_special_ids]

        hostile = [user(f"x{mark}{text}{mark}y"), answer(f"x{mark}y")]
        assert specials(hostile) == specials([user("x"), answer("y")])
        assert f"x{mark}y{STOPS[name]}" in trained_text(renderer, hostile, TrainOnWhat.ALL_ASSISTANT_MESSAGES)

    check()


EXTENDS = {"chatml", "llama3", "gemma", "marked", "phi", "mistral"}


@pytest.mark.parametrize("name", [*TRAINABLE, "strips", "dated"])
def test_the_extension_property_is_decided_rightly(renderer_of: Callable[[str], Renderer], name: str) -> None:
    renderer = renderer_of(name)
    assert renderer.has_extension_property is (name in EXTENDS | {"dated"})
    if not renderer.has_extension_property:
        return

    @settings(max_examples=40)
    @given(chats)
    def check(messages: list[Message]) -> None:
        prompts = [
            renderer.build_generation_prompt(messages[:index]).to_ints()
            for index in range(1, len(messages), 2)
        ]
        for shorter, longer in pairwise(prompts):
            assert longer[: len(shorter)] == shorter

    check()


THOUGHT = Message(role="assistant", content=(ThinkingPart("hm"), TextPart("b")))


def test_reasoning_is_trained_in_the_turn_that_is_produced(renderer_of: Callable[[str], Renderer]) -> None:
    renderer = renderer_of("qwen")
    chat = [user("a"), THOUGHT, user("c"), THOUGHT]
    block = "<think>\nhm\n</think>\n\nb<|im_end|>"
    assert trained_text(renderer, chat, TrainOnWhat.LAST_ASSISTANT_TURN) == block
    assert trained_text(
        renderer, [user("a"), answer("<think>\nhm\n</think>\n\nb")], TrainOnWhat.ALL_ASSISTANT_MESSAGES
    ) == (block)
    with pytest.raises(RenderError, match=r"messages\[1\]: .*leaves out its reasoning"):
        renderer.build_supervised_example(chat, TrainOnWhat.ALL_ASSISTANT_MESSAGES)
    assert len(renderer.build_supervised_examples(chat, TrainOnWhat.ALL_ASSISTANT_MESSAGES)) == 2


ADD = ToolCall(name="add", arguments='{"a": 1, "b": "<|im_end|>"}')
SUB = ToolCall(name="sub", arguments='{"a": [1, 2]}')


def test_tool_calls_are_trained_and_read_back(renderer_of: Callable[[str], Renderer]) -> None:
    renderer = renderer_of("qwen")
    chat = [
        user("sum?"),
        answer("Let me see.", tool_calls=(ADD, SUB)),
        Message(role="tool", content="3", name="add"),
        Message(role="tool", content="0", name="sub"),
        answer("3 and 0"),
    ]
    trained = trained_text(renderer, chat, TrainOnWhat.LAST_ASSISTANT_TURN)
    assert trained.startswith("Let me see.\n<tool_call>\n{")
    assert trained.endswith("</tool_call><|im_end|><think>\n\n</think>\n\n3 and 0<|im_end|>")
    ids = renderer.build_supervised_example(chat[:2]).model_input.to_ints()
    start = len(renderer.build_generation_prompt(chat[:1]).to_ints())
    message, _ = renderer.parse_response(ids[start:-1])
    assert message.tool_calls == (ADD, SUB)
    assert message.text == "Let me see."
    assert "[3]" not in trained
    assert trained_text(renderer, chat, TrainOnWhat.ALL_MESSAGES).count("\n</tool_response>") == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('<tool_call>\n{"name": "add", "arguments": {broken}\n</tool_call>', "not JSON"),
        ('<tool_call>\n{"name": "add"}\n</tool_call>', "no name and JSON object follow"),
        ('<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call> and more', "text after the last call"),
    ],
)
def test_a_call_that_cannot_be_read_is_kept_with_the_reason(
    renderer_of: Callable[[str], Renderer], text: str, said: str
) -> None:
    renderer = renderer_of("qwen")
    message, _ = renderer.parse_response([*renderer.tokenizer.encode(text), *renderer.stop_sequences])  # type: ignore[list-item]
    assert said in message.unparsed_tool_calls[0].error


def test_tools_are_handed_to_the_template(
    renderer_of: Callable[[str], Renderer], theirs: Callable[[str], Any]
) -> None:
    renderer = renderer_of("qwen")
    tool = ToolSpec(name="add", description="adds", parameters={"type": "object", "properties": {}})
    chat = [*renderer.create_conversation_prefix_with_tools([tool], "Be brief."), user("a"), answer("b")]
    expected = their_ids(
        theirs("qwen"),
        [system("Be brief."), user("a")],
        prompt=True,
        tools=[{"type": "function", "function": tool.to_dict()}],
    )
    assert renderer.build_generation_prompt(chat[:-1]).to_ints() == expected
    assert (
        trained_text(renderer, chat, TrainOnWhat.LAST_ASSISTANT_TURN) == "<think>\n\n</think>\n\nb<|im_end|>"
    )
    with pytest.raises(RenderError, match=r"messages\[3\]: .*knows no role 'critic'|messages\[3\].role"):
        renderer.build_generation_prompt([*chat[:3], Message(role="critic", content="x")])


@pytest.mark.parametrize(
    ("name", "messages", "said"),
    [
        ("gemma", [system("s"), user("a"), answer("b")], r"messages\[0\]: .*there is no system role"),
        ("gemma", [user("a"), user("b"), answer("c")], r"messages\[1\]: .*must alternate"),
        ("mistral", [user("a"), answer("b"), answer("c")], r"messages\[2\]: .*roles must take turns"),
        ("mistral", [user("a"), answer("b", tool_calls=(ADD,))], r"messages\[1\]: .*leaves out a tool call"),
        ("llama3", [user("a"), THOUGHT], r"messages\[1\]: 'chat_template' cannot express a thinking part"),
        ("llama3", [answer("b")], r"messages\[0\]"),
        ("strips", [user("a"), answer("b")], r"messages\[1\]: .*prompts for it otherwise"),
        ("qwen", [user("a"), answer("x</think>y</think>z")], r"messages\[1\]: .*rewrites its text"),
    ],
)
def test_what_has_no_right_mask_is_refused_with_message_and_reason(
    renderer_of: Callable[[str], Renderer], name: str, messages: list[Message], said: str
) -> None:
    with pytest.raises(RenderError, match=said):
        renderer_of(name).build_supervised_example(messages)


def test_a_system_message_that_is_gone_once_it_is_answered_is_refused(
    renderer_of: Callable[[str], Renderer],
) -> None:
    renderer = renderer_of("mistral")
    prompt = renderer.build_generation_prompt([system("s"), user("a")]).to_ints()
    assert renderer.tokenizer.decode(prompt) == "<s>[INST] s\n\na[/INST]"
    with pytest.raises(
        RenderError, match=r"messages\[0\]: .*leaves out the text of this message of 'system'"
    ):
        renderer.build_supervised_example([system("s"), user("a"), answer("b")])


def test_marks_of_the_template_decide_where_it_has_them(
    renderer_of: Callable[[str], Renderer], with_template: Callable[[str], Path]
) -> None:
    source = (TEMPLATES / "marked.jinja").read_text()
    without_end = source.replace(
        "{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}",
        "{{- message.content -}}{%- endgeneration -%}{{- '<|im_end|>\\n' -}}",
    )
    assert without_end != source
    renderer = get_renderer("chat_template", loaded(with_template(without_end))[1])
    assert trained_text(renderer, [user("a"), answer("b")], TrainOnWhat.ALL_ASSISTANT_MESSAGES) == "b"
    chat = [user("a"), answer("b"), user("c"), answer("d")]
    assert (
        trained_text(renderer_of("marked"), chat, TrainOnWhat.ALL_ASSISTANT_MESSAGES)
        == "b<|im_end|>d<|im_end|>"
    )


# --- real vocabularies and templates ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def real(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Any, Renderer]]:
    """A vocabulary of the shared folder, by name, or ``name:file`` with another template than its own."""

    @cache
    def made(name: str) -> tuple[Any, Renderer]:
        folder, _, template = name.partition(":")
        source = shared_data / "tokenizers" / folder
        if template:
            model = tmp_path_factory.mktemp("real") / "model"
            shutil.copytree(source, model)
            config = json.loads((source / "tokenizer_config.json").read_text())
            config.pop("chat_template")
            (model / "tokenizer_config.json").write_text(json.dumps(config))
            shutil.copy(source / template, model / "chat_template.jinja")
            source = model
        tokenizer, ours = loaded(source)
        return tokenizer, get_renderer("chat_template", ours, DATED)

    return made


Real = Callable[[str], tuple[Any, Renderer]]
REAL = ["qwen3", "llama-3.1-instruct", "deepseek-r1:chat_template_v3.1.jinja"]
CASES: Mapping[str, list[Message]] = {
    "plain": [user("What is 2 + 2?"), answer("4")],
    "system": [system("Be brief."), user("Hi"), answer("Hello!")],
    "turns": [user("a"), answer("b"), user("c"), answer("d\n")],
    "words": [user("naïve 🙂\n\n"), answer("  das ist\n\tso")],
    "tools": [
        user("find"),
        answer("", tool_calls=(ToolCall(name="search", arguments='{"q": "é"}'),)),
        Message(role="tool", content="found", name="search"),
        answer("done"),
    ],
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("case", CASES)
def test_real_templates_give_the_tokens_of_transformers_and_train_what_is_sampled(
    real: Real, name: str, case: str
) -> None:
    tokenizer, renderer = real(name)
    messages = CASES[case]
    ids = renderer.build_supervised_example(messages).model_input.to_ints()
    whole = their_ids(tokenizer, messages)
    assert ids == whole or crosses_a_prompt(tokenizer, messages, whole)
    assert tokenizer.decode(ids) == tokenizer.decode(whole)
    check_what_is_trained_is_what_is_sampled(renderer, messages)


@pytest.mark.real
@pytest.mark.parametrize("name", ["qwen3", "llama-3.1-instruct"])
def test_real_templates_and_any_text(real: Real, name: str) -> None:
    tokenizer, renderer = real(name)

    @settings(max_examples=40)
    @given(chats)
    def check(messages: list[Message]) -> None:
        if any("<|" in message.text for message in messages):
            return
        ids = renderer.build_supervised_example(messages).model_input.to_ints()
        whole = their_ids(tokenizer, messages)
        assert ids == whole or crosses_a_prompt(tokenizer, messages, whole)
        check_what_is_trained_is_what_is_sampled(renderer, messages)

    check()


@pytest.mark.real
@pytest.mark.parametrize("what", ["last_assistant_message", "all_assistant_messages", "all_messages"])
def test_on_qwen3_it_gives_what_the_renderer_qwen3_gives(real: Real, what: str) -> None:
    _, renderer = real("qwen3")
    by_hand = get_renderer("qwen3", renderer.tokenizer)
    for case in ("plain", "system", "turns"):
        ours = renderer.build_supervised_example(CASES[case], TrainOnWhat(what))
        theirs = by_hand.build_supervised_example(CASES[case], TrainOnWhat(what))
        count = theirs.model_input.length
        assert ours.model_input.to_ints()[:count] == theirs.model_input.to_ints()
        assert ours.weights[:count].tolist() == theirs.weights.tolist()
        assert renderer.tokenizer.decode(ours.model_input.to_ints()[count:]) == "\n"
        assert ours.weights[count:].tolist() == [0.0]


@pytest.mark.real
def test_gpt_oss_trains_its_last_turn_and_refuses_history_that_does_not_stop(
    real: Real,
) -> None:
    _, renderer = real("gpt-oss")
    assert [renderer.tokenizer.decode([t]) for t in renderer.stop_sequences] == ["<|return|>", "<|call|>"]  # type: ignore[list-item]
    chat = [user("a"), answer("b"), user("c"), THOUGHT]
    assert trained_text(renderer, chat, TrainOnWhat.LAST_ASSISTANT_MESSAGE) == (
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>"
    )
    ids = renderer.build_supervised_example(chat).model_input.to_ints()
    start = len(renderer.build_generation_prompt(chat[:-1]).to_ints())
    assert renderer.parse_response(ids[start:])[0].parts == THOUGHT.parts
    with pytest.raises(RenderError, match=r"messages\[1\]: .*does not end sampling"):
        renderer.build_supervised_example(chat, TrainOnWhat.ALL_ASSISTANT_MESSAGES)
    two = answer("", tool_calls=(SUB, SUB))
    with pytest.raises(RenderError, match=r"messages\[1\]: .*leaves out a tool call"):
        renderer.build_supervised_example([user("a"), two])


@pytest.mark.real
def test_deepseek_r1_prompts_and_reads_but_its_template_cannot_train(
    real: Real,
) -> None:
    tokenizer, renderer = real("deepseek-r1")
    assert renderer.build_generation_prompt([user("a")]).to_ints() == their_ids(
        tokenizer, [user("a")], prompt=True
    )
    sampled = [*renderer.tokenizer.encode("hm\n</think>\n\nb"), *renderer.stop_sequences]
    assert renderer.parse_response(sampled)[0].parts == THOUGHT.parts  # type: ignore[arg-type]
    for text in ("b", "<think>\nhm\n</think>\n\nb"):
        with pytest.raises(RenderError, match=r"messages\[1\]: .*'<think>"):
            renderer.build_supervised_example([user("a"), answer(text)])


@pytest.mark.real
def test_a_sentencepiece_vocabulary_is_trained_on_its_own_tokens(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stories"
    shutil.copytree(shared_data / "models" / "stories260K", folder)
    (folder / "chat_template.jinja").write_text((TEMPLATES / "mistral.jinja").read_text())
    tokenizer, ours = loaded(folder)
    renderer = get_renderer("chat_template", ours)
    chat = [user("Where is the cat?"), answer("On the mat."), user("And the dog?"), answer("Out.")]
    ids = renderer.build_supervised_example(chat).model_input.to_ints()
    assert ids == their_ids(tokenizer, chat)
    check_what_is_trained_is_what_is_sampled(renderer, chat)
