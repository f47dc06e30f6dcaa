"""Recorded values of tinker-cookbook, and how renderers are compared with them."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from crucible_testing.tokenizers import FileTokenizer
from crucible_train.renderers import (
    Message,
    Renderer,
    RendererOptions,
    RenderError,
    ToolSpec,
    TrainOnWhat,
    get_renderer,
    message_to_dict,
    messages_from_dicts,
    renderer_names,
)

GOLDEN = Path(__file__).parent / "golden"
SYSTEM = "You are a helpful assistant."
REAL_TOKENIZERS: dict[str, tuple[str, dict[str, str | None]]] = {
    "qwen3": ("qwen3", {}),
    "qwen3_base": ("qwen3", {"eos_token": "<|endoftext|>"}),
    "llama3": ("llama-3.1-instruct", {}),
    "gpt_oss": ("gpt-oss", {}),
    "deepseek_v3": ("deepseek-r1", {}),
    "llama3_base": ("llama-3.1-instruct", {"eos_token": "<|end_of_text|>"}),
}


def read_golden(name: str, folder: Path = GOLDEN) -> dict[str, Any]:
    packed = folder / f"{name}.json.gz"
    text = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / f"{name}.json").read_bytes()
    found: dict[str, Any] = json.loads(text)
    return found


def spread(runs: list[list[float]]) -> list[float]:
    return [value for value, count in runs for _ in range(count)]


def read_conversations() -> dict[str, list[Message]]:
    return {
        name: messages_from_dicts(rows)
        for name, rows in read_golden("conversations")["conversations"].items()
    }


def read_tools() -> list[ToolSpec]:
    return [ToolSpec(**tool) for tool in read_golden("conversations")["tools"]]


Sequence = tuple[list[int], list[float], list[int]]
"""Tokens, weights and lengths of chunks; the latter two empty where none were recorded."""


class ParsingTokenizer(FileTokenizer):
    """As upstream encodes content in some renderers: special tokens in text become special tokens."""

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        return super().encode(text, allow_special=True)


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """With text parts joined, as upstream gives a prefix with tools."""
    content = row["content"]
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    return {**row, "content": text}


class RendererGolden:
    """One golden file of renderers and, for each recorded case, how ours compares with it.

    A case is ``equal``, ``error`` (both refuse), the name of an explained difference (checked to be exactly
    that difference), or a sentence that says what differs and is explained nowhere.
    """

    def __init__(self, name: str, tokenizer: FileTokenizer, folder: Path = GOLDEN) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.parsing = ParsingTokenizer(tokenizer.folder, tokenizer.overrides)
        self.options = RendererOptions(current_date="2025-01-01")
        self.data = read_golden(name, folder)
        self.conversations = read_conversations()
        self.names = [name for name in self.data["renderers"] if name in renderer_names()]

    def renderer(self, name: str) -> Renderer:
        return get_renderer(name, self.tokenizer, self.options)

    # Each yields (kind of case, renderer, label, verdict)

    @cached_property
    def found(self) -> list[tuple[str, str, str, str]]:
        return list(self.verdicts())

    def verdicts(self) -> Iterator[tuple[str, str, str, str]]:
        for name in self.names:
            yield "facts", name, name, self._facts(name)
        for case in self._cases("supervised"):
            for mode, recorded in case["modes"].items():
                label = f"{case['renderer']}/{case['conv']}/{mode}"
                yield "supervised", case["renderer"], label, self._supervised(case, mode, recorded)
            for mode, examples in case["examples"].items():
                label = f"{case['renderer']}/{case['conv']}/{mode}"
                yield "examples", case["renderer"], label, self._examples(case, mode, examples)
        for case in self._cases("generation"):
            label = f"{case['renderer']}/{case['conv']}/{case['variant']}/{case.get('prefill')}"
            yield "generation", case["renderer"], label, self._generation(case)
        for case in self._cases("parse"):
            label = f"{case['renderer']}/{case['body']}/{case['suffix']}"
            yield "parse", case["renderer"], label, self._parse(case)

    def counts(self) -> Counter[str]:
        return Counter(verdict for _, _, _, verdict in self.found)

    def _cases(self, kind: str) -> list[dict[str, Any]]:
        return [case for case in self.data[kind] if case["renderer"] in self.names]

    def _facts(self, name: str) -> str:
        renderer, recorded = self.renderer(name), self.data["renderers"][name]
        ours = {
            "stop_sequences": list(renderer.stop_sequences),
            "bos_tokens": list(renderer.bos_tokens),
            "has_extension_property": renderer.has_extension_property,
            "disables_thinking": renderer.disables_thinking,
        }
        for key, value in ours.items():
            if value != recorded[key]:
                return f"{key}: {value} and not {recorded[key]}"
        for key, system in (("tools_prefix", SYSTEM), ("tools_prefix_no_system", "")):
            if key not in recorded:
                continue
            expected = recorded[key]
            try:
                prefix = renderer.create_conversation_prefix_with_tools(read_tools(), system)
            except RenderError as error:
                if isinstance(expected, list):
                    return f"{key}: {error}"
                continue
            if [flat(message_to_dict(message)) for message in prefix] != expected:
                return f"{key} differs"
        return "equal"

    def messages(self, conversation: str, mode: str) -> list[Message]:
        found = self.conversations[conversation]
        if mode != "customized":
            return found
        return [replace(message, trainable=i % 2 == 0) for i, message in enumerate(found)]

    def _supervised(self, case: dict[str, Any], mode: str, recorded: dict[str, Any]) -> str:
        messages = self.messages(case["conv"], mode)

        def ours(renderer: Renderer) -> list[Sequence]:
            example = renderer.build_supervised_example(messages, TrainOnWhat(mode))
            lengths = [chunk.length for chunk in example.model_input.chunks]
            return [(example.model_input.all_tokens(), example.weights.tolist(), lengths)]

        theirs = None
        if "error" not in recorded:
            lengths = recorded.get("chunk_lens", case.get("chunk_lens"))
            theirs = [(recorded.get("tokens", case.get("tokens")), spread(recorded["w"]), lengths)]
        return self._judge(case["renderer"], messages, ours, theirs, recorded.get("message", ""))

    def _examples(self, case: dict[str, Any], mode: str, recorded: Any) -> str:
        messages = self.messages(case["conv"], mode)

        def ours(renderer: Renderer) -> list[Sequence]:
            examples = renderer.build_supervised_examples(messages, TrainOnWhat(mode))
            return [(one.model_input.all_tokens(), one.weights.tolist(), []) for one in examples]

        if isinstance(recorded, dict):
            return self._judge(case["renderer"], messages, ours, None, recorded["message"])
        theirs: list[Sequence] = [(one["tokens"], spread(one["w"]), []) for one in recorded]
        return self._judge(case["renderer"], messages, ours, theirs, "")

    def _generation(self, case: dict[str, Any]) -> str:
        role = "user" if case["variant"] == "role_user" else "assistant"

        def ours(renderer: Renderer) -> list[Sequence]:
            messages = self._prompt(renderer, case)
            prompt = renderer.build_generation_prompt(messages, role, case.get("prefill"))
            return [(prompt.all_tokens(), [], [])]

        theirs: list[Sequence] | None = None if "error" in case else [(case["tokens"], [], [])]
        messages = [] if case["variant"] == "tools" else self._prompt(self.renderer(case["renderer"]), case)
        return self._judge(case["renderer"], messages, ours, theirs, case.get("message", ""))

    def _prompt(self, renderer: Renderer, case: dict[str, Any]) -> list[Message]:
        variant = case["variant"]
        if variant == "empty":
            return []
        if variant == "role_user":
            return self.conversations["single_turn"]
        if variant == "tools":
            prefix = renderer.create_conversation_prefix_with_tools(read_tools(), SYSTEM)
            return [*prefix, *self.conversations["tool_call"][:1]]
        messages = self.conversations[case["conv"]]
        if variant == "full":
            return messages
        end = max(i for i, message in enumerate(messages) if message.role == "assistant")
        while end > 0 and messages[end - 1].role == "assistant":
            end -= 1
        return messages[:end]

    def _parse(self, case: dict[str, Any]) -> str:
        try:
            message, termination = self.renderer(case["renderer"]).parse_response(case["tokens"])
        except RenderError as error:
            return "error" if "error" in case else f"refused: {error}"
        if "error" in case:
            return f"upstream refuses: {case['message']}"
        ours, theirs = message_to_dict(message), dict(case["message"])
        for found in (ours, theirs):  # the wording of the reason is ours
            calls = found.get("unparsed_tool_calls", [])
            found["unparsed_tool_calls"] = [(call["raw_text"], bool(call["error"])) for call in calls]
        if (ours, termination.value) != (theirs, case["termination"]):
            return f"{ours} {termination.value} and not {theirs} {case['termination']}"
        structural, content = not termination.is_clean, bool(message.unparsed_tool_calls)
        kind = "structural" if structural else "content" if content else None
        return "equal" if kind == case["failure"] else f"failure {kind} and not {case['failure']}"

    # Explained differences, each checked to be no more than that

    def _judge(
        self,
        name: str,
        messages: list[Message],
        ours: Callable[[Renderer], list[Sequence]],
        theirs: list[Sequence] | None,
        their_error: str,
    ) -> str:
        renderer = self.renderer(name)
        try:
            found = ours(renderer)
        except RenderError as error:
            if theirs is None:
                return "error"
            calls = any(message.tool_calls for message in messages)
            return "tool calls refused" if calls and "express tool calls" in str(error) else str(error)
        if theirs is None:
            added = len(renderer.prepare(messages)) > len(messages)
            return "trainable" if added and "trainable" in their_error else f"upstream: {their_error}"
        if found == theirs:
            return "equal"
        if len(found) != len(theirs):
            return f"{len(found)} examples and not {len(theirs)}"
        if ours(get_renderer(name, self.parsing, self.options)) == theirs:
            return "text stays literal"
        unused = self.tokenizer.encode("<UNUSED>")
        if all(
            [*tokens, *unused] == their_tokens and weights == their_weights[: len(tokens)]
            for (tokens, weights, _), (their_tokens, their_weights, _) in zip(found, theirs, strict=True)
        ):
            return "no placeholder"
        eos = renderer.stop_sequences[0]
        if name.startswith("deepseek") and all(
            without(ours_one, theirs_one, eos) for ours_one, theirs_one in zip(found, theirs, strict=True)
        ):
            empty = any(message.role == "assistant" and not message.content for message in messages)
            return "turn is closed" if empty else "an end mark too many"
        return f"{self.tokenizer.decode(found[0][0])!r} and not {self.tokenizer.decode(theirs[0][0])!r}"


def without(ours: Sequence, theirs: Sequence, end: str | int) -> bool:
    """Whether ours is theirs with nothing but end marks added."""
    tokens, weights = list(ours[0]), list(ours[1])
    position = 0
    for token, weight in zip(theirs[0], theirs[1] or [0.0] * len(theirs[0]), strict=True):
        while position < len(tokens) and tokens[position] != token and tokens[position] == end:
            position += 1
        if position >= len(tokens) or tokens[position] != token:
            return False
        if weights and weights[position] != weight:
            return False
        position += 1
    return all(token == end for token in tokens[position:])


@pytest.fixture(scope="session")
def mini() -> FileTokenizer:
    return FileTokenizer(GOLDEN / "tokenizers" / "mini")


@pytest.fixture(scope="session")
def mini_bos() -> FileTokenizer:
    return FileTokenizer(GOLDEN / "tokenizers" / "mini_bos")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    return read_golden


@pytest.fixture(scope="session")
def conversations() -> dict[str, list[Message]]:
    return read_conversations()


@pytest.fixture(scope="session")
def tools() -> list[ToolSpec]:
    return read_tools()


@pytest.fixture(scope="session")
def renderer_golden() -> Callable[..., RendererGolden]:
    """``renderer_golden("mini")`` or, with the shared data folder, ``renderer_golden("qwen3", data)``."""

    loaded: dict[str, RendererGolden] = {}

    def load(name: str, data: Path | None = None, *, fresh: bool = False) -> RendererGolden:
        if fresh:
            return read(name, data)
        if name not in loaded:
            loaded[name] = read(name, data)
        return loaded[name]

    def read(name: str, data: Path | None) -> RendererGolden:
        if data is None:
            return RendererGolden(f"renderers_{name}", FileTokenizer(GOLDEN / "tokenizers" / name))
        folder, overrides = REAL_TOKENIZERS[name]
        tokenizer = FileTokenizer(data / "tokenizers" / folder, overrides)
        return RendererGolden(f"renderers_{name}", tokenizer, data.parent / "golden")

    return load
