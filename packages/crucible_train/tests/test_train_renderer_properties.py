"""What holds for every renderer and every conversation."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_testing.templated import TemplatedTokenizer
from crucible_train.renderers import (
    Message,
    RendererOptions,
    RenderError,
    TextPart,
    ThinkingPart,
    TrainOnWhat,
    get_renderer,
    renderer_names,
)
from crucible_train.supervised import datum_from_model_input_weights

MINI = TemplatedTokenizer(Path(__file__).parent / "golden" / "tokenizers" / "mini_bos")
OPTIONS = RendererOptions(current_date="2025-01-01")
NAMES = list(renderer_names())

texts = st.text(max_size=20) | st.sampled_from(["", "<think>x</think>y", "<|im_end|>", "\n\nUser:", " a "])
users = st.builds(Message, role=st.just("user"), content=texts)
answers = st.builds(Message, role=st.just("assistant"), content=texts)
turns = st.lists(st.tuples(users, answers), min_size=1, max_size=3).map(
    lambda pairs: [message for pair in pairs for message in pair]
)
systems = st.lists(st.builds(Message, role=st.just("system"), content=texts), max_size=1)
chats = st.builds(lambda system, rest: system + rest, systems, turns)
modes = st.sampled_from([what for what in TrainOnWhat if what is not TrainOnWhat.CUSTOMIZED])
names = st.sampled_from(NAMES)


def usual(name: str, messages: list[Message]) -> list[Message]:
    """Without marks in the text and with answers as a format expects them.

    The prompt of Nemotron with thinking opens a block that an answer without reasoning does not have, and
    DeepSeek's an empty answer does not have.
    """
    plain = [replace(m, content=m.text.replace("think>", "") or "x") for m in messages]
    if name not in ("nemotron3", "nemotron3_preserve_thinking"):
        return plain
    return [
        replace(m, content=(ThinkingPart("hm"), TextPart(m.text))) if m.role == "assistant" else m
        for m in plain
    ]


@settings(max_examples=120, deadline=None)
@given(names, chats, modes)
def test_there_is_one_weight_of_zero_or_one_per_position(
    name: str, messages: list[Message], what: TrainOnWhat
) -> None:
    renderer = get_renderer(name, MINI, OPTIONS)
    try:
        example = renderer.build_supervised_example(messages, what)
    except RenderError:
        assert renderer.disables_thinking
        return
    assert example.weights.shape == (example.model_input.length,)
    assert set(example.weights.tolist()) <= {0.0, 1.0}


@settings(max_examples=70, deadline=None)
@given(names, chats)
def test_only_what_is_asked_for_carries_loss(name: str, messages: list[Message]) -> None:
    renderer = get_renderer(name, MINI, OPTIONS)
    nothing = [replace(message, trainable=False) for message in messages]
    assert renderer.build_supervised_example(nothing, TrainOnWhat.CUSTOMIZED).weights.sum() == 0
    alone = [replace(message, trainable=i == 0) for i, message in enumerate(messages)]
    first = renderer.build_supervised_example(alone, TrainOnWhat.CUSTOMIZED)
    everything = renderer.build_supervised_example(messages, TrainOnWhat.ALL_MESSAGES)
    assert ((first.weights == 0) | (everything.weights == 1)).all()
    trained = renderer.build_supervised_example(messages, TrainOnWhat.ALL_ASSISTANT_MESSAGES).weights
    other = renderer.build_supervised_example(messages, TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES).weights
    assert (trained * other == 0).all()
    assert (trained + other <= everything.weights).all()


@settings(max_examples=70, deadline=None)
@given(names, chats)
def test_the_prompt_begins_the_example_and_carries_no_loss(name: str, messages: list[Message]) -> None:
    renderer = get_renderer(name, MINI, OPTIONS)
    messages = usual(name, messages)
    prompt = renderer.build_generation_prompt(messages[:-1]).to_ints()
    example = renderer.build_supervised_example(messages, TrainOnWhat.LAST_ASSISTANT_MESSAGE)
    assert example.model_input.to_ints()[: len(prompt)] == prompt
    assert example.weights[: len(prompt)].sum() == 0
    rest = example.weights[len(prompt) :].tolist()
    if name == "chat_template":  # the template's own line break stands behind the end mark
        assert rest.pop() == 0.0
    assert all(rest)


@settings(max_examples=70, deadline=None)
@given(names, chats)
def test_with_the_extension_property_each_prompt_begins_the_next(name: str, messages: list[Message]) -> None:
    renderer = get_renderer(name, MINI, OPTIONS)
    if not renderer.has_extension_property:
        return
    messages = usual(name, messages)
    prompts = [
        renderer.build_generation_prompt(messages[:i]).to_ints()
        for i, message in enumerate(messages)
        if message.role == "assistant"
    ]
    for shorter, longer in pairwise(prompts):
        assert longer[: len(shorter)] == shorter
    assert len(renderer.build_supervised_examples(messages, TrainOnWhat.ALL_TOKENS)) == 1


@settings(max_examples=70, deadline=None)
@given(names, chats)
def test_examples_train_every_assistant_message_once(name: str, messages: list[Message]) -> None:
    renderer = get_renderer(name, MINI, OPTIONS)
    examples = renderer.build_supervised_examples(usual(name, messages), TrainOnWhat.ALL_ASSISTANT_MESSAGES)
    answers = sum(message.role == "assistant" for message in messages)
    assert len(examples) == (1 if renderer.has_extension_property else answers)
    assert all(example.weights.sum() > 0 for example in examples)


@settings(max_examples=70, deadline=None)
@given(st.sampled_from([n for n in NAMES if n != "role_colon"]), st.text(min_size=1, max_size=30))
def test_a_rendered_answer_is_read_back_as_itself(name: str, text: str) -> None:
    renderer = get_renderer(name, MINI, OPTIONS)
    text = MINI.decode(MINI.encode(text)).strip().replace("<", "")  # as the vocabulary spells it
    messages = [Message(role="user", content="q"), Message(role="assistant", content=text or "x")]
    full = renderer.build_supervised_example(messages).model_input.to_ints()
    prompt = renderer.build_generation_prompt(messages[:1]).to_ints()
    message, termination = renderer.parse_response(full[len(prompt) :])
    assert termination.is_clean
    assert message.text == (text or "x")


@settings(max_examples=70, deadline=None)
@given(names, chats, st.integers(2, 60))
def test_a_truncated_datum_is_the_beginning_of_the_whole_one(
    name: str, messages: list[Message], limit: int
) -> None:
    renderer = get_renderer(name, MINI, OPTIONS)
    example = renderer.build_supervised_example(messages, TrainOnWhat.ALL_MESSAGES)
    whole = datum_from_model_input_weights(example.model_input, example.weights)
    short = datum_from_model_input_weights(example.model_input, example.weights, limit)
    length = min(limit, example.model_input.length) - 1
    assert short.model_input.length == length
    assert short.model_input.to_ints() == whole.model_input.to_ints()[:length]
    assert short.target_tokens.tolist() == whole.target_tokens[:length].tolist()
    assert short.weights.tolist() == whole.weights[:length].tolist()


@settings(max_examples=60, deadline=None)
@given(names, chats)
def test_mean_reduction_makes_the_weights_sum_to_one(name: str, messages: list[Message]) -> None:
    renderer = get_renderer(name, MINI, OPTIONS)
    example = renderer.build_supervised_example(messages, TrainOnWhat.ALL_MESSAGES)
    datum = datum_from_model_input_weights(example.model_input, example.weights, reduction="mean")
    assert datum.weights.sum() == pytest.approx(1.0, rel=1e-5)
    raw = datum_from_model_input_weights(example.model_input, example.weights)
    assert (datum.target_tokens == raw.target_tokens).all()
