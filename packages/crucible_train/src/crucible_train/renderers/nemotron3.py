"""The chat formats of Nemotron 3."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.renderers.expressible import Feature
from crucible_train.renderers.message import Message, TextPart, ToolSpec, has_reasoning
from crucible_train.renderers.options import RendererOptions
from crucible_train.renderers.qwen3_5 import Qwen3_5Renderer
from crucible_train.renderers.rendered import RenderContext
from crucible_train.renderers.xml_calls import offer_tools, write_xml_call

__all__ = ["Nemotron3DisableThinkingRenderer", "Nemotron3PreserveThinkingRenderer", "Nemotron3Renderer"]

EMPTY_BLOCK = "<think></think>"


def _others(fields: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    for name, value in fields.items():
        if name not in known:
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            yield f"<{name}>{text}</{name}>"


def _parameter_lines(name: str, fields: Mapping[str, Any]) -> Iterator[str]:
    yield f"<parameter>\n<name>{name}</name>"
    if "type" in fields:
        yield f"<type>{fields['type']}</type>"
    if "description" in fields:
        yield f"<description>{fields['description'].strip()}</description>"
    if "enum" in fields:
        yield f"<enum>{json.dumps(fields['enum'])}</enum>"
    yield from _others(fields, {"name", "type", "description", "enum"})
    yield "</parameter>"


def declare_tool(tool: ToolSpec) -> str:
    """A tool as nested elements, in the order the models were trained on."""
    lines = [f"<function>\n<name>{tool.name}</name>"]
    if tool.description.strip():
        lines.append(f"<description>{tool.description.strip()}</description>")
    lines.append("<parameters>")
    for name, fields in tool.parameters.get("properties", {}).items():
        lines += _parameter_lines(name, fields)
    lines += _others(tool.parameters, {"type", "properties", "required"})
    if "required" in tool.parameters:
        lines.append(f"<required>{json.dumps(tool.parameters['required'])}</required>")
    return "\n".join([*lines, "</parameters>\n</function>"])


class Nemotron3Renderer(Qwen3_5Renderer):
    """Nemotron 3 (Nano, Super): there is always a system message, and every answer has a think block.

    Text only. Reasoning is stripped before the last user message, and an empty block stands in its place.
    """

    name: ClassVar[str] = "nemotron3"
    features: ClassVar[frozenset[Feature]] = frozenset({"parts", "thinking", "tool_calls"})

    @property
    def has_extension_property(self) -> bool:
        """True where history keeps its reasoning."""
        return not self.strip_thinking_from_history

    def prepare(self, messages: Sequence[Message]) -> list[Message]:
        """An empty system message where the conversation has none."""
        if messages and messages[0].role == "system":
            return list(messages)
        marked = any(message.trainable is not None for message in messages)
        return [Message(role="system", content="", trainable=False if marked else None), *messages]

    def trimmed(self, message: Message) -> Message:
        """Text without white space around it; parts are left as they are."""
        if isinstance(message.content, str):
            return replace(message, content=message.content.strip())
        return message

    def _is_history(self, context: RenderContext) -> bool:
        return context.index < context.last_user_index

    def strips_thinking(self, message: Message, context: RenderContext) -> bool:
        """Only before the last user message."""
        return super().strips_thinking(message, context) and self._is_history(context)

    def empty_block(self, message: Message, context: RenderContext) -> str:
        """An empty block where no reasoning is shown; on a line of its own where some was stripped."""
        stripped = self._is_history(context) and self.strip_thinking_from_history
        if not has_reasoning(message):
            return EMPTY_BLOCK
        if not stripped:
            return ""
        return EMPTY_BLOCK + ("\n" if _has_text_part(message) and not message.tool_calls else "")

    def thinking_text(self, thinking: str) -> str:
        """Reasoning on lines of its own."""
        return f"<think>\n{thinking}\n</think>\n"

    def tool_result_marks(self) -> tuple[str, str]:
        """Each result ends its own line."""
        return "<tool_response>\n", "\n</tool_response>\n"

    def next_tool_result(self) -> str:
        """Nothing: results end their lines."""
        return ""

    def calls_text(self, message: Message) -> str:
        """Calls on lines of their own."""
        before = "" if message.has_thinking and not _has_text_part(message) else "\n"
        calls = [f"{write_xml_call(call, self.argument_text)}\n" for call in message.tool_calls]
        return before + "".join(calls)

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[ToolSpec], system_prompt: str = ""
    ) -> list[Message]:
        """One system message: the prompt, then the tools."""
        content = "\n\n".join(text for text in (system_prompt, offer_tools(tools, declare_tool)) if text)
        return [Message(role="system", content=content)]


def _has_text_part(message: Message) -> bool:
    """Whether the content is given as parts and one of them is text."""
    if isinstance(message.content, str):
        return False
    return any(isinstance(part, TextPart) and part.text for part in message.content)


class Nemotron3PreserveThinkingRenderer(Nemotron3Renderer):
    """Nemotron 3 with the reasoning of history kept."""

    name: ClassVar[str] = "nemotron3_preserve_thinking"

    def __init__(self, tokenizer: Tokenizer, options: RendererOptions | None = None) -> None:
        super().__init__(tokenizer, options, strip_thinking_from_history=False)


class Nemotron3DisableThinkingRenderer(Nemotron3Renderer):
    """Nemotron 3 with thinking off: prompts end in an empty think block."""

    name: ClassVar[str] = "nemotron3_disable_thinking"
    disables_thinking: ClassVar[bool] = True
    prompt_thinking: ClassVar[str] = EMPTY_BLOCK
