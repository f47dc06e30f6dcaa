"""Tokens, weights, prompts, stops and parsed answers: every renderer, on generated conversations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st
from ledger import EQUAL, REFUSED, Ledger
from sides import Both, Rows, both, their_messages
from strategies import answers, conversations
from tinker_cookbook import renderers as upstream
from tinker_cookbook.renderers.base import message_to_jsonable

from crucible_train.renderers import (
    RenderError,
    ToolSpec,
    TrainOnWhat,
    message_to_dict,
    messages_from_dicts,
    renderer_names,
)

MODES = [what.value for what in TrainOnWhat]
SPLIT = ("last_assistant_message", "last_assistant_turn", "all_assistant_messages", "all_messages")
REAL = {
    "qwen3": [name for name in renderer_names() if name.startswith("qwen")],
    "llama-3.1-instruct": ["llama3"],
    "gpt-oss": [name for name in renderer_names() if name.startswith("gpt_oss")],
    "deepseek-r1": ["deepseekv3", "deepseekv3_thinking"],
}
TOOLS = [
    {
        "name": "search",
        "description": "Find pages.",
        "parameters": {
            "type": "object",
            "properties": {
                "q": {"type": "string", "description": "What for."},
                "n": {"type": "integer", "default": 3},
                "kind": {"type": "string", "enum": ["web", "news"]},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["q"],
        },
    },
    {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
]
CLOSES_ALONE = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x</think>y"}]
MIXED = (
    "<tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n</function>\n</tool_call>"
    '<tool_call>\n{"name": "g", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
)
Sequence = tuple[list[int], list[float], list[int]]
Sequences = list[Sequence]
"""Tokens, weights, and lengths of chunks of each example."""


def their_example(pair: Any) -> Sequence:
    model_input, weights = pair
    lengths = [chunk.length for chunk in model_input.chunks]
    return model_input.to_ints(), weights.float().tolist(), lengths


def our_example(example: Any) -> Sequence:
    lengths = [chunk.length for chunk in example.model_input.chunks]
    return example.model_input.to_ints(), example.weights.tolist(), lengths


def outcome(compute: Callable[[], Sequences]) -> Sequences | str:
    """What comes of it, or the words in which upstream refuses (in whatever class of exception)."""
    try:
        return compute()
    except Exception as error:  # noqa: BLE001 - whatever its class, it is a refusal
        return f"{type(error).__name__}: {error}"


def ours_or_refusal(compute: Callable[[Any], Sequences], renderer: Any) -> Sequences | RenderError:
    try:
        return compute(renderer)
    except RenderError as error:
        return error


# --- the kinds of difference -------------------------------------------------------------------------------


def judge(side: Both, rows: Rows, compute: Callable[[Any], Sequences], theirs: Sequences | str) -> str:
    """``equal``, ``refused by both``, an explained kind, or a sentence that says what differs."""
    ours = ours_or_refusal(compute, side.ours)
    if isinstance(ours, RenderError):
        if isinstance(theirs, str):
            return REFUSED
        calls = any("tool_calls" in row for row in rows)
        if calls and "express tool calls" in str(ours):
            return "tool calls refused"
        if side.ours.disables_thinking and closes_alone(rows) and "forbids it" in str(ours):
            return "one think block"  # what stands before the mark is reasoning, and the prompt forbids reasoning
        return f"ours refuses: {ours}"
    if isinstance(theirs, str):
        added = len(side.ours.prepare(messages_from_dicts(rows))) > len(rows)
        return "trainable" if added and "trainable" in theirs else f"upstream refuses: {theirs}"
    if ours == theirs:
        return EQUAL
    literal = ours_or_refusal(compute, side.parsing)
    if literal == theirs:
        return "text stays literal"
    versions = [found for found in (ours, literal) if not isinstance(found, RenderError)]
    if any(has_placeholder(side, rows, found, theirs) for found in versions):
        return "no placeholder"
    if side.name.startswith("deepseek") and any(is_closed(side, rows, found, theirs) for found in versions):
        return "turn is closed"
    if any(has_empty_block(side, rows, found, theirs) for found in versions):
        return "one think block"
    pairs = [(one, other) for one, other in zip(ours, theirs, strict=False) if one != other]
    (ours_one, *_), (theirs_one, *_) = pairs[0] if pairs else (([],), ([],))
    return f"{side.tokenizer.decode(ours_one)!r} and not {side.tokenizer.decode(theirs_one)!r}"


def has_placeholder(side: Both, rows: Rows, ours: Sequences, theirs: Sequences) -> bool:
    """role_colon, the last message not the assistant's: ours and then ``<UNUSED>``."""
    if side.name != "role_colon" or rows[-1]["role"] == "assistant" or len(ours) != len(theirs):
        return False
    unused = side.tokenizer.encode("<UNUSED>")
    return all(
        [*tokens, *unused] == their_tokens and weights == their_weights[: len(tokens)]
        for (tokens, weights, _), (their_tokens, their_weights, _) in zip(ours, theirs, strict=True)
    )


def is_closed(side: Both, rows: Rows, ours: Sequences, theirs: Sequences) -> bool:
    """An assistant's message without content is there, and ours is theirs with nothing but end marks added."""
    empty = any(row["role"] == "assistant" and not text_of(row) for row in rows)
    end = side.ours.stop_sequences[0]
    return (
        empty
        and len(ours) == len(theirs)
        and all(
            added_alone(list(zip(*pad(one), strict=True)), list(zip(*pad(other), strict=True)), end)
            for one, other in zip(ours, theirs, strict=True)
        )
    )


def has_empty_block(side: Both, rows: Rows, ours: Sequences, theirs: Sequences) -> bool:
    """Qwen3, an answer closes a block that it never opened, and theirs is ours with empty blocks put in."""
    if not (side.name.startswith("qwen3") and closes_alone(rows) and len(ours) == len(theirs)):
        return False
    block = side.tokenizer.encode("<think>\n\n</think>\n\n")
    return all(
        without_blocks(list(zip(*pad(one), strict=True)), list(zip(*pad(other), strict=True)), block)
        for one, other in zip(ours, theirs, strict=True)
    )


def closes_alone(rows: Rows) -> bool:
    """Whether an answer closes a think block that it never opened."""
    return any(
        row["role"] == "assistant" and "</think>" in text_of(row) and "<think>" not in text_of(row)
        for row in rows
    )


def pad(sequence: Sequence) -> tuple[list[int], list[float]]:
    tokens, weights, _ = sequence
    return tokens, weights or [0.0] * len(tokens)


def without_blocks(ours: list[tuple[int, float]], theirs: list[tuple[int, float]], block: list[int]) -> bool:
    """Whether leaving out some occurrences of ``block`` from theirs gives ours."""
    if len(ours) == len(theirs):
        return ours == theirs
    places = [i for i in range(len(theirs)) if [token for token, _ in theirs[i : i + len(block)]] == block]
    return len(theirs) > len(ours) and any(
        theirs[:place] == ours[:place]
        and without_blocks(ours, theirs[:place] + theirs[place + len(block) :], block)
        for place in places
    )


def text_of(row: dict[str, Any]) -> str:
    content = row["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def added_alone(ours: list[tuple[int, float]], theirs: list[tuple[int, float]], end: Any) -> bool:
    """Whether ours is theirs, in order, with end marks in between and no other token."""
    position = 0
    for token, weight in ours:
        if position < len(theirs) and theirs[position] == (token, weight):
            position += 1
        elif token != end:
            return False
    return position == len(theirs)


# --- conversations -----------------------------------------------------------------------------------------


def compare(ledger: Ledger, label: str, side: Both, rows: Rows) -> None:
    """Every mode, split into turns too, and generation prompts with and without a prefill."""
    for mode in MODES:
        given_rows = (
            [{**row, "trainable": i % 2 == 0} for i, row in enumerate(rows)] if mode == "customized" else rows
        )
        theirs = outcome(
            lambda r=given_rows, m=mode: [
                their_example(
                    side.theirs.build_supervised_example(their_messages(r), upstream.TrainOnWhat(m))
                )
            ]
        )

        def ours(renderer: Any, r: Rows = given_rows, m: str = mode) -> Sequences:
            return [our_example(renderer.build_supervised_example(messages_from_dicts(r), TrainOnWhat(m)))]

        verdict = judge(side, given_rows, ours, theirs)
        ledger.note(f"{label}: tokens, weights and chunks", verdict, (side.name, mode, given_rows))
    for mode in SPLIT:
        theirs = outcome(
            lambda m=mode: [
                their_example(pair)
                for pair in side.theirs.build_supervised_examples(
                    their_messages(rows), upstream.TrainOnWhat(m)
                )
            ]
        )

        def split(renderer: Any, m: str = mode) -> Sequences:
            found = renderer.build_supervised_examples(messages_from_dicts(rows), TrainOnWhat(m))
            return [our_example(example) for example in found]

        ledger.note(
            f"{label}: examples split by turn", judge(side, rows, split, theirs), (side.name, mode, rows)
        )
    for role, prefill in (("assistant", None), ("assistant", "Sure "), ("user", None)):
        theirs = outcome(
            lambda p=prefill, r=role: [
                (side.theirs.build_generation_prompt(their_messages(rows), r, p).to_ints(), [], [])
            ]
        )

        def prompt(renderer: Any, p: str | None = prefill, r: str = role) -> Sequences:
            return [(renderer.build_generation_prompt(messages_from_dicts(rows), r, p).to_ints(), [], [])]

        verdict = judge(side, rows, prompt, theirs)
        ledger.note(f"{label}: generation prompts", verdict, (side.name, prefill, rows))


def test_a_generated_conversation_becomes_the_tokens_and_weights_of_upstream(
    ledger: Ledger, mini_folder: Path, recorded_name: str
) -> None:
    side = both(recorded_name, mini_folder)

    @seed(crc32(recorded_name.encode()))
    @settings(max_examples=180)
    @given(conversations())
    @example(CLOSES_ALONE)
    def check(rows: Rows) -> None:
        compare(ledger, "renderers", side, rows)

    check()


@pytest.mark.real
@pytest.mark.parametrize("folder", REAL)
def test_real_vocabularies_give_the_tokens_and_weights_of_upstream(
    ledger: Ledger, shared_data: Path, folder: str
) -> None:
    @seed(crc32(folder.encode()))
    @settings(max_examples=60)
    @given(conversations())
    @example(CLOSES_ALONE)
    def check(rows: Rows) -> None:
        for name in REAL[folder]:
            compare(
                ledger, "renderers, real vocabularies", both(name, shared_data / "tokenizers" / folder), rows
            )

    check()


# --- facts and tools ---------------------------------------------------------------------------------------


def test_stop_sequences_beginnings_and_extension_are_those_of_upstream(
    ledger: Ledger, mini_folder: Path, recorded_name: str
) -> None:
    side = both(recorded_name, mini_folder)
    ours = list(side.ours.stop_sequences), list(side.ours.bos_tokens), side.ours.has_extension_property
    theirs = (
        list(side.theirs.get_stop_sequences()),
        list(side.theirs._bos_tokens),
        side.theirs.has_extension_property,
    )
    verdict = EQUAL if ours == theirs else f"{ours} and not {theirs}"
    ledger.note("stop sequences and facts", verdict, recorded_name)


def test_tools_are_offered_in_the_words_of_upstream(
    ledger: Ledger, mini_folder: Path, recorded_name: str
) -> None:
    side = both(recorded_name, mini_folder)

    @settings(max_examples=20)
    @given(
        st.lists(st.sampled_from(TOOLS), min_size=1, max_size=2), st.sampled_from(("", "Be brief.", " é\n"))
    )
    def check(tools: list[dict[str, Any]], system: str) -> None:
        try:
            found = side.theirs.create_conversation_prefix_with_tools(copy.deepcopy(tools), system)
            theirs: Any = [flat(dict(message_to_jsonable(message))) for message in found]
        except NotImplementedError:
            theirs = None
        try:
            specs = [ToolSpec(**tool) for tool in tools]
            prefix = side.ours.create_conversation_prefix_with_tools(specs, system)
            ours: Any = [flat(message_to_dict(message)) for message in prefix]
        except RenderError:
            ours = None
        verdict = (
            REFUSED if ours is None and theirs is None else EQUAL if ours == theirs else f"{ours}, {theirs}"
        )
        ledger.note("tools offered", verdict, (recorded_name, tools, system))

    check()


def flat(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "content": text_of(row)}


# --- answers -----------------------------------------------------------------------------------------------


def their_answer(side: Both, tokens: list[int]) -> tuple[dict[str, Any], str] | None:
    try:
        message, termination = side.theirs.parse_response(list(tokens))
    except Exception:  # noqa: BLE001 - whatever its class, it is a refusal
        return None
    row = dict(message_to_jsonable(message))
    found = {"role": row["role"], "content": row["content"], "tool_calls": [], "unparsed": []}
    found["tool_calls"] = [
        (call.id, call.function.name, call.function.arguments) for call in message.get("tool_calls", [])
    ]
    found["unparsed"] = [call.raw_text for call in message.get("unparsed_tool_calls", [])]
    return found, termination.value


def our_answer(side: Both, tokens: list[int]) -> tuple[dict[str, Any], str] | None:
    try:
        message, termination = side.ours.parse_response(tokens)
    except RenderError:
        return None
    row = message_to_dict(message)
    found = {"role": row["role"], "content": row["content"]}
    found["tool_calls"] = [(call.id, call.name, call.arguments) for call in message.tool_calls]
    found["unparsed"] = [call.raw_text for call in message.unparsed_tool_calls]
    return found, termination.value


def judge_answer(side: Both, text: str, ours: Any, theirs: Any) -> str:
    if ours == theirs:
        return REFUSED if ours is None else EQUAL
    if ours is None or theirs is None or ours[1] != theirs[1]:
        return f"{ours} and not {theirs}"
    (one, _), (other, _) = ours, theirs
    mixed = "<function=" in text and '{"name"' in text
    sorted_calls = {
        **one,
        **{key: sorted(one[key], key=str) for key in ("tool_calls", "unparsed")},
    }
    sorted_theirs = {
        **other,
        **{key: sorted(other[key], key=str) for key in ("tool_calls", "unparsed")},
    }
    if mixed and sorted_calls == sorted_theirs:
        return "calls in order"
    if trimmed(sorted_calls) == trimmed(sorted_theirs) and (
        mixed or one["tool_calls"] == other["tool_calls"]
    ):
        return "thinking trimmed"
    said = one["content"]
    if side.name.startswith("gpt_oss") and said == "" and "<|message|>" in text:
        return "blank sections" if not one["tool_calls"] and not other["tool_calls"] else "calls lost"
    return f"{ours} and not {theirs}"


def trimmed(row: dict[str, Any]) -> dict[str, Any]:
    """With every thinking part stripped; what is then empty is left out."""
    content = row["content"]
    if isinstance(content, str):
        return row
    parts = [
        {**part, "thinking": part["thinking"].strip()} if part["type"] == "thinking" else part
        for part in content
    ]
    return {**row, "content": [part for part in parts if part.get("thinking") != ""]}


def test_a_generated_answer_is_read_as_upstream_reads_it(
    ledger: Ledger, mini_folder: Path, recorded_name: str
) -> None:
    side = both(recorded_name, mini_folder)

    @seed(crc32(recorded_name.encode()))
    @settings(max_examples=700)
    @given(answers(recorded_name))
    @example(MIXED)
    @example("<|channel|>final<|message|> <|return|>")
    def check(text: str) -> None:
        tokens = side.tokenizer.encode(text, allow_special=True)
        verdict = judge_answer(side, text, our_answer(side, tokens), their_answer(side, tokens))
        ledger.note("parsed answers", verdict, (recorded_name, text))

    check()
