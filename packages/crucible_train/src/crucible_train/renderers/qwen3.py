"""The chat formats of Qwen3: with thinking, with thinking off, and of the instruct models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.renderers.base import Renderer
from crucible_train.renderers.errors import RenderError
from crucible_train.renderers.expressible import Feature
from crucible_train.renderers.message import (
    ContentPart,
    Message,
    Role,
    TextPart,
    ThinkingPart,
    ToolCall,
    ToolSpec,
    UnparsedToolCall,
    has_reasoning,
)
from crucible_train.renderers.options import RendererOptions
from crucible_train.renderers.parsing import (
    read_tool_call,
    split_at_stop_token,
    split_blocks,
    unterminated_block,
)
from crucible_train.renderers.rendered import ParseTermination, RenderContext, RenderedMessage, text_chunk

__all__ = ["Qwen3DisableThinkingRenderer", "Qwen3InstructRenderer", "Qwen3Renderer", "json_tools_prompt"]

_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""The wording that the models were trained on (their tokenizer's own template)."""


def json_tools_prompt(tools: Sequence[ToolSpec]) -> str:
    """The text that offers tools to a Qwen3 model; empty without tools."""
    if not tools:
        return ""
    lines = [json.dumps({"type": "function", "function": tool.to_dict()}) for tool in tools]
    return _TOOLS.format(tools="\n".join(lines))


def framed(thinking: str) -> str:
    """Reasoning as the model writes it before an answer; an empty block says there was none."""
    return "<think>\n" + thinking.strip("\n") + "\n</think>\n\n"


def json_call(call: ToolCall) -> str:
    payload = {"name": call.name, "arguments": call.decoded_arguments()}
    return f"<tool_call>\n{json.dumps(payload)}\n</tool_call>"


class Qwen3Renderer(Renderer):
    """Qwen3 with thinking on: the produced turn always has a think block, history has none.

    ``strip_thinking_from_history=False`` keeps reasoning everywhere and so gains the extension property.
    Results of tools are user messages in ``<tool_response>`` marks.
    """

    name: ClassVar[str] = "qwen3"
    features: ClassVar[frozenset[Feature]] = frozenset({"parts", "thinking", "tool_calls"})
    frames_thinking: ClassVar[bool] = True

    def __init__(
        self,
        tokenizer: Tokenizer,
        options: RendererOptions | None = None,
        *,
        strip_thinking_from_history: bool = True,
    ) -> None:
        super().__init__(tokenizer, options)
        self.strip_thinking_from_history = strip_thinking_from_history

    @property
    def options(self) -> dict[str, object]:
        """Whether reasoning is stripped from history."""
        return {"strip_thinking_from_history": self.strip_thinking_from_history}

    @property
    def has_extension_property(self) -> bool:
        """True where history keeps its reasoning."""
        return not self.strip_thinking_from_history

    @property
    def stop_sequences(self) -> tuple[int, ...]:
        """``<|im_end|>``."""
        return (self.special("<|im_end|>"),)

    def render_message(self, message: Message, context: RenderContext) -> RenderedMessage:
        """Header, content, and the end mark as a chunk of its own."""
        role = "user" if message.role == "tool" else message.role
        return RenderedMessage(
            header=text_chunk(self._header(role, context)),
            output=(text_chunk(self.literal(self._body(message, context))), text_chunk(self.stop_sequences)),
        )

    def _header(self, role: Role, context: RenderContext) -> list[int]:
        before = self.literal("\n") if context.index > 0 else []
        return [*before, self.special("<|im_start|>"), *self.literal(f"{role}\n")]

    def _frames(self, message: Message, context: RenderContext) -> bool:
        """Whether the message gets a think block: the produced turn, if a user asked for it."""
        if not self.frames_thinking or message.role != "assistant" or context.last_user_index < 0:
            return False
        return context.is_last or not self.strip_thinking_from_history

    def _body(self, message: Message, context: RenderContext) -> str:
        framing = self._frames(message, context)
        text = self._content(message, context, framing)
        has_text = bool(text)
        closes = isinstance(message.content, str) and "</think>" in message.content
        if framing and not closes and not has_reasoning(message):
            text = framed("") + text.lstrip("\n")
        if message.role == "tool":
            text = f"<tool_response>\n{text}\n</tool_response>"
        if message.tool_calls:
            text += ("\n" if has_text else "") + "\n".join(json_call(call) for call in message.tool_calls)
        return text

    def _content(self, message: Message, context: RenderContext, framing: bool) -> str:
        if isinstance(message.content, str):
            before, mark, after = message.content.partition("</think>")
            if framing and mark:
                return framed(before.rpartition("<think>")[2]) + after.lstrip("\n")
            return message.content
        stripping = self.strip_thinking_from_history and message.role == "assistant" and not context.is_last
        texts: list[str] = []
        after_block = False
        for part in message.content:
            if isinstance(part, ThinkingPart) and not stripping:
                texts.append(framed(part.thinking) if framing else f"<think>{part.thinking}</think>")
                after_block = framing
            elif isinstance(part, TextPart):
                texts.append(part.text.lstrip("\n") if after_block else part.text)
                after_block = False
        return "".join(texts)

    def parse_response(self, tokens: Sequence[int]) -> tuple[Message, ParseTermination]:
        """Reasoning and text as parts, calls as calls; a cut-off answer as plain text."""
        text, termination = split_at_stop_token(self.restored(tokens), self.tokenizer, *self.stop_sequences)
        blocks = split_blocks(text, self.read_call) if termination.is_clean else None
        if blocks is None:
            return Message(role="assistant", content=text), termination
        parts, calls = blocks
        unparsed = [call for call in calls if isinstance(call, UnparsedToolCall)]
        dangling = unterminated_block(text, "<tool_call>", "</tool_call>")
        message = Message(
            role="assistant",
            content=tuple(self._unframed(parts)),
            tool_calls=tuple(call for call in calls if isinstance(call, ToolCall)),
            unparsed_tool_calls=tuple(unparsed if dangling is None else [*unparsed, dangling]),
        )
        return message, termination

    def restored(self, tokens: Sequence[int]) -> Sequence[int]:
        """The answer with what its prompt already held of it put back in front."""
        return tokens

    def read_call(self, text: str, raw_text: str) -> ToolCall | UnparsedToolCall:
        """The call between two ``tool_call`` marks."""
        return read_tool_call(text, raw_text)

    def _unframed(self, parts: Sequence[ContentPart]) -> list[ContentPart]:
        """Take off the line breaks that ``framed`` puts on, so that parsing undoes rendering."""
        if not self.frames_thinking:
            return list(parts)
        plain: list[ContentPart] = []
        after_block = False
        for part in parts:
            if isinstance(part, ThinkingPart):
                thinking = part.thinking.strip("\n")
                plain += [ThinkingPart(thinking)] if thinking else []
            elif isinstance(part, TextPart):
                plain.append(TextPart(part.text.lstrip("\n") if after_block else part.text))
            after_block = isinstance(part, ThinkingPart)
        return plain

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[ToolSpec], system_prompt: str = ""
    ) -> list[Message]:
        """One system message: the prompt, then the tools."""
        offered = json_tools_prompt(tools)
        content = f"{system_prompt}\n\n{offered}" if system_prompt else offered
        return [Message(role="system", content=content)]


class Qwen3DisableThinkingRenderer(Qwen3Renderer):
    """Qwen3 with thinking off: the prompt ends in an empty think block, so answers come at once."""

    name: ClassVar[str] = "qwen3_disable_thinking"
    disables_thinking: ClassVar[bool] = True

    def render_message(self, message: Message, context: RenderContext) -> RenderedMessage:
        """As Qwen3; refuses an answer in a conversation without a user message.

        Raises:
            RenderError: there is no user message, so the format writes no empty block before the answer
                while the prompt would.
        """
        produced = message.role == "assistant" and context.is_last and bool(message.content)
        if produced and context.last_user_index < 0:
            raise RenderError(
                what="an answer without a user message has no empty think block, and the prompt has one",
                where=f"messages[{context.index}]",
                remedy="add a user message, or use 'qwen3'",
            )
        return super().render_message(message, context)

    def generation_suffix(self, role: Role, context: RenderContext) -> tuple[int, ...]:
        """The header and an empty think block."""
        return (*self._header(role, context), *self.literal(framed("")))


class Qwen3InstructRenderer(Qwen3Renderer):
    """Qwen3 Instruct 2507: no think blocks of its own; reasoning that is given is written as it is."""

    name: ClassVar[str] = "qwen3_instruct"
    frames_thinking: ClassVar[bool] = False

    @property
    def has_extension_property(self) -> bool:
        """True: there is no reasoning to strip, unless a caller puts some into history."""
        return True
