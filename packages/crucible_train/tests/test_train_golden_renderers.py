"""Renderers give what tinker-cookbook gave on every recorded case, but for the differences named here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from crucible_testing.tokenizers import FileTokenizer
from crucible_train.renderers import (
    ImagePart,
    Message,
    RendererOptions,
    RenderError,
    TextPart,
    TrainOnWhat,
    get_renderer,
)
from crucible_train.types import EncodedTextChunk, ImageChunk

EXPLAINED = {"tool calls refused", "text stays literal", "no placeholder", "turn is closed", "trainable"}
REAL = ["qwen3", "qwen3_base", "llama3", "llama3_base", "gpt_oss", "deepseek_v3"]


def check(found: Any) -> None:
    unexplained = [
        (kind, label, verdict)
        for kind, _, label, verdict in found.found
        if verdict not in {"equal", "error"} | EXPLAINED
    ]
    assert unexplained == []


@pytest.mark.parametrize("name", ["mini", "mini_bos"])
def test_every_recorded_case_is_equal_or_one_of_the_explained_differences(
    renderer_golden: Callable[..., Any], name: str
) -> None:
    check(renderer_golden(name))


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_every_recorded_case_with_a_real_vocabulary_is_equal_or_explained(
    renderer_golden: Callable[..., Any], name: str, shared_data: Path
) -> None:
    check(renderer_golden(name, shared_data))


def test_all_23_recorded_renderers_are_there(renderer_golden: Callable[..., Any]) -> None:
    found = renderer_golden("mini")
    assert len(found.names) == len(found.data["renderers"]) == 23


def test_no_difference_is_explained_for_the_text_formats_of_qwen3(
    renderer_golden: Callable[..., Any],
) -> None:
    plain = {"qwen3", "qwen3_disable_thinking", "qwen3_instruct"}
    verdicts = {verdict for _, name, _, verdict in renderer_golden("mini").found if name in plain}
    assert verdicts == {"equal", "error"}


class StubProcessor:
    """Counts as the recording did: by the size, which these images' bytes spell."""

    def count_positions(self, image: ImagePart) -> int:
        width, height = map(int, image.data.split(b"x"))
        return (2 * round(height / 32)) * (2 * round(width / 32)) // 4


def vision_messages(rows: list[dict[str, Any]]) -> list[Message]:
    def part(row: list[Any]) -> TextPart | ImagePart:
        return (
            TextPart(row[1])
            if row[0] == "text"
            else ImagePart(data=b"%dx%d" % (row[1], row[2]), format="jpeg")
        )

    return [
        Message(
            role=row["role"],
            content=row["content"] if isinstance(row["content"], str) else tuple(map(part, row["content"])),
        )
        for row in rows
    ]


@pytest.mark.real
def test_images_stand_where_they_were_recorded(
    golden: Callable[[str], dict[str, Any]], shared_data: Path
) -> None:
    tokenizer = FileTokenizer(shared_data / "tokenizers" / "qwen3")
    recorded = golden("renderers_vision")
    options = RendererOptions(images=StubProcessor())
    refused = 0
    for case in recorded["cases"]:
        renderer = get_renderer(case["renderer"], tokenizer, options)
        messages = vision_messages(recorded["conversations"][case["conv"]])
        if "error" in case:  # qwen3 drops the image without an error there; ours refuses
            refused += 1
            with pytest.raises(RenderError):
                renderer.build_supervised_example(messages)
            continue
        example = renderer.build_supervised_example(messages, TrainOnWhat.ALL_ASSISTANT_MESSAGES)
        assert [shape(chunk) for chunk in example.model_input.chunks] == [
            chunk["tokens"] if "tokens" in chunk else chunk["expected_tokens"] for chunk in case["chunks"]
        ]
        assert example.weights.tolist() == [
            value for value, count in case["weights_all_assistant_messages"] for _ in range(count)
        ]
        everything = renderer.build_supervised_example(messages, TrainOnWhat.ALL_TOKENS)
        recorded_weights = [value for value, count in case["weights_all_tokens"] for _ in range(count)]
        seen = image_positions(example.model_input.chunks)
        assert everything.weights.tolist() == [
            0 if seeing else value for value, seeing in zip(recorded_weights, seen, strict=True)
        ]  # there, images carry weight 1 on the target 0; ours carry none
        assert all(value == 1 for value, seeing in zip(recorded_weights, seen, strict=True) if seeing)
        prompt = renderer.build_generation_prompt(messages[:-1])
        assert [shape(chunk) for chunk in prompt.chunks] == [
            chunk["tokens"] if "tokens" in chunk else chunk["expected_tokens"]
            for chunk in case["generation_chunks"]
        ]
    assert (len(recorded["cases"]), refused) == (23, 3)


def image_positions(chunks: Sequence[EncodedTextChunk | ImageChunk]) -> list[bool]:
    return [isinstance(chunk, ImageChunk) for chunk in chunks for _ in range(chunk.length)]


def shape(chunk: EncodedTextChunk | ImageChunk) -> list[int] | int:
    return list(chunk.tokens) if isinstance(chunk, EncodedTextChunk) else chunk.expected_tokens


def test_a_wrong_weight_is_seen_by_the_comparison(renderer_golden: Callable[..., Any]) -> None:
    found = renderer_golden("mini_bos", fresh=True)
    found.data["supervised"][0]["modes"]["all_tokens"]["w"][0][0] = 1
    with pytest.raises(AssertionError, match=r"/single_turn/"):
        check(found)


def test_a_wrong_token_is_seen_by_the_comparison(renderer_golden: Callable[..., Any]) -> None:
    found = renderer_golden("mini_bos", fresh=True)
    found.data["generation"][0]["tokens"][-1] += 1
    with pytest.raises(AssertionError, match=r"/single_turn/"):
        check(found)
