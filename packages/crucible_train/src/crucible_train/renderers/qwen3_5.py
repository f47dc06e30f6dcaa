"""The chat formats of Qwen3.5 and 3.6."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.renderers.message import (
    ContentPart,
    ImagePart,
    Message,
    TextPart,
    ThinkingPart,
    ToolCall,
    ToolSpec,
    UnparsedToolCall,
    has_reasoning,
)
from crucible_train.renderers.options import RendererOptions
from crucible_train.renderers.parsing import read_tool_call
from crucible_train.renderers.qwen3_vl import Qwen3VLRenderer
from crucible_train.renderers.rendered import RenderContext
from crucible_train.renderers.xml_calls import offer_tools, read_xml_call, write_xml_call

__all__ = ["Qwen3_5DisableThinkingRenderer", "Qwen3_5PreserveThinkingRenderer", "Qwen3_5Renderer"]

EMPTY_BLOCK = "<think>\n\n</think>\n\n"


def trimmed_parts(parts: Sequence[ContentPart]) -> tuple[ContentPart, ...]:
    """The parts without white space around their visible content; reasoning is left as it is."""
    found = list(parts)
    visible = [i for i, part in enumerate(found) if not isinstance(part, ThinkingPart)]
    for order, strip in ((visible, str.lstrip), (visible[::-1], str.rstrip)):
        for i in order:
            part = found[i]
            if not isinstance(part, TextPart):
                break
            found[i] = TextPart(strip(part.text))
            if strip(part.text):
                break
    return tuple(found)


class Qwen3_5Renderer(Qwen3VLRenderer):  # noqa: N801
    """Qwen3.5: prompts open a think block, content is trimmed, calls are XML, tool results share a message.

    Assistant messages after the last user message have a think block, if an empty one. There is no
    extension property even with reasoning kept: a turn that did not reason is sampled after an open
    block, and is written with a closed one in history.
    """

    name: ClassVar[str] = "qwen3_5"
    groups_tool_results: ClassVar[bool] = True
    prompt_thinking: ClassVar[str] = "<think>\n"

    @property
    def has_extension_property(self) -> bool:
        """False, whatever is kept."""
        return False

    def trimmed(self, message: Message) -> Message:
        """Without white space around the visible content."""
        if isinstance(message.content, str):
            return replace(message, content=message.content.strip())
        return replace(message, content=trimmed_parts(message.content))

    def empty_block(self, message: Message, context: RenderContext) -> str:
        """An empty think block after the last user message, where there is no reasoning."""
        if context.index <= context.last_user_index or has_reasoning(message):
            return ""
        return EMPTY_BLOCK

    def thinking_text(self, thinking: str) -> str:
        """Reasoning on lines of its own."""
        return f"<think>\n{thinking}\n</think>\n\n"

    def argument_text(self, value: object) -> str:
        """Lists and objects as JSON, anything else as Python writes it (``True``, ``None``)."""
        return json.dumps(value) if isinstance(value, dict | list) else str(value)

    def calls_text(self, message: Message) -> str:
        """Calls on lines of their own; an empty line before them where there is visible content."""
        visible = any(
            isinstance(part, ImagePart) or (isinstance(part, TextPart) and part.text.strip())
            for part in message.parts
        )
        calls = [write_xml_call(call, self.argument_text) for call in message.tool_calls]
        return ("\n\n" if visible else "") + "\n".join(calls)

    def restored(self, tokens: Sequence[int]) -> Sequence[int]:
        """The opened block put back, where the answer closes one it did not open."""
        opening = self.literal("<think>\n")
        if list(tokens[: len(opening)]) == opening or self.special("</think>") not in tokens:
            return tokens
        return [*opening, *tokens]

    def read_call(self, text: str, raw_text: str) -> ToolCall | UnparsedToolCall:
        """XML where there is a function element, JSON otherwise."""
        return read_xml_call(text, raw_text) if "<function=" in text else read_tool_call(text, raw_text)

    def _unframed(self, parts: Sequence[ContentPart]) -> list[ContentPart]:
        return [
            ThinkingPart(part.thinking.strip()) if isinstance(part, ThinkingPart) else part
            for part in super()._unframed(parts)
        ]

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[ToolSpec], system_prompt: str = ""
    ) -> list[Message]:
        """One system message: the tools, then the prompt."""
        offered = offer_tools(tools, lambda tool: json.dumps(tool.to_dict()))
        content = "\n\n".join(text for text in (offered, system_prompt) if text)
        return [Message(role="system", content=content)]


class Qwen3_5PreserveThinkingRenderer(Qwen3_5Renderer):  # noqa: N801
    """Qwen3.5 with the reasoning of history kept."""

    name: ClassVar[str] = "qwen3_5_preserve_thinking"

    def __init__(self, tokenizer: Tokenizer, options: RendererOptions | None = None) -> None:
        super().__init__(tokenizer, options, strip_thinking_from_history=False)


class Qwen3_5DisableThinkingRenderer(Qwen3_5Renderer):  # noqa: N801
    """Qwen3.5 with thinking off: prompts end in an empty think block."""

    name: ClassVar[str] = "qwen3_5_disable_thinking"
    disables_thinking: ClassVar[bool] = True
    prompt_thinking: ClassVar[str] = EMPTY_BLOCK
