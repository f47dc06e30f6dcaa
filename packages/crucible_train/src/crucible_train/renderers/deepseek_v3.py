"""The chat formats of DeepSeek V3.1 and R1: with thinking, and without."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.renderers.base import Renderer
from crucible_train.renderers.errors import RenderError
from crucible_train.renderers.expressible import Feature, only_text
from crucible_train.renderers.message import (
    ContentPart,
    MarkupPart,
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
from crucible_train.renderers.parsing import split_at_stop_token, split_thinking, unterminated_block
from crucible_train.renderers.rendered import (
    Mark,
    ParseTermination,
    Piece,
    RenderContext,
    RenderedMessage,
    text_chunk,
)

__all__ = ["DeepSeekV3Renderer", "DeepSeekV3ThinkingRenderer"]

CALLS_BEGIN, CALLS_END = Mark("<｜tool▁calls▁begin｜>"), Mark("<｜tool▁calls▁end｜>")
CALL_BEGIN, CALL_END = Mark("<｜tool▁call▁begin｜>"), Mark("<｜tool▁call▁end｜>")
SEPARATOR = Mark("<｜tool▁sep｜>")
RESULT_BEGIN, RESULT_END = Mark("<｜tool▁output▁begin｜>"), Mark("<｜tool▁output▁end｜>")
ASSISTANT, USER, EOS = Mark("<｜Assistant｜>"), Mark("<｜User｜>"), Mark("<｜end▁of▁sentence｜>")

_CALLS = re.compile(f"{CALLS_BEGIN}(.*?){CALLS_END}", re.DOTALL)
_CALL = re.compile(rf"{CALL_BEGIN}(?P<name>\w+){SEPARATOR}(?P<arguments>.*?){CALL_END}", re.DOTALL)
_BLOCK = re.compile(rf"\s*{CALLS_BEGIN}.*?{CALLS_END}", re.DOTALL)
_CALL_MARKS = re.compile(f"({CALLS_BEGIN}|{CALLS_END}|{CALL_BEGIN}|{CALL_END}|{SEPARATOR})")
_THINKING = re.compile("<think>.*?</think>", re.DOTALL)

_TOOLS = f"""\n\n## Tools
You have access to the following tools:

{{tools}}

IMPORTANT: ALWAYS adhere to this exact format for tool use:
{CALLS_BEGIN}{CALL_BEGIN}tool_call_name{SEPARATOR}tool_call_arguments{CALL_END}{CALLS_END}

Where:
- `tool_call_name` must be an exact match to one of the available tools
- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema
- For multiple tool calls, chain them directly without separators or spaces"""
"""The wording that the models were trained on (their tokenizer's own template)."""


def _follows_tool(context: RenderContext) -> bool:
    return context.previous is not None and context.previous.role == "tool"


class _DeepSeekV3(Renderer):
    """What both formats share. A system message stands first, and has no header."""

    features: ClassVar[frozenset[Feature]] = frozenset({"parts", "thinking", "tool_calls"})

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
    def bos_tokens(self) -> tuple[int, ...]:
        """``<｜begin▁of▁sentence｜>``."""
        return (self.special("<｜begin▁of▁sentence｜>"),)

    @property
    def stop_sequences(self) -> tuple[int, ...]:
        """``<｜end▁of▁sentence｜>``."""
        return (self.special(EOS),)

    def render_message(self, message: Message, context: RenderContext) -> RenderedMessage:
        """Role mark and content; an answer to a tool's result goes on without a mark.

        Raises:
            RenderError: a system message that is not the first, or a role the format has not.
        """
        header: list[str] = []
        body: list[Piece] = [*self._content(message, context), *self._calls(message)]
        match message.role:
            case "user":
                header = [USER]
            case "assistant":
                header = [] if _follows_tool(context) else [ASSISTANT]
                body.append(EOS)
            case "tool":
                header = [RESULT_BEGIN]
                body.append(RESULT_END)
            case "system" if context.index == 0:
                pass
            case _:
                raise RenderError(
                    what=f"{self.name!r} has no place for a message of {message.role!r} here",
                    where=f"messages[{context.index}]",
                    remedy="put the system message first; other roles: user, assistant, tool",
                )
        return RenderedMessage(
            header=text_chunk(self.spell(*header)) if header else None, output=self.chunks(body)
        )

    def _content(self, message: Message, context: RenderContext) -> list[Piece]:
        if message.role == "system" and isinstance(message.parts[-1], MarkupPart):
            return [piece for part in message.parts for piece in _system_pieces(part)]
        if message.role != "assistant":
            return [only_text(message, self.name, context.index)]
        stripping = self.strip_thinking_from_history and not message.tool_calls and not context.is_last
        pieces: list[Piece] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                pieces.append(part.text)
            elif isinstance(part, ThinkingPart) and not stripping:
                pieces.append(f"<think>{part.thinking}</think>")
        return pieces

    @staticmethod
    def _calls(message: Message) -> list[Piece]:
        if not message.tool_calls:
            return []
        pieces: list[Piece] = [CALLS_BEGIN]
        for call in message.tool_calls:
            call.decoded_arguments()
            pieces += [CALL_BEGIN, call.name, SEPARATOR, call.arguments, CALL_END]
        return [*pieces, CALLS_END]

    def restored(self, tokens: Sequence[int]) -> Sequence[int]:
        """The answer with what its prompt already held of it put back in front."""
        return tokens

    def parse_response(self, tokens: Sequence[int]) -> tuple[Message, ParseTermination]:
        """Reasoning and text as parts, calls as calls; a cut-off answer as plain text."""
        text, termination = split_at_stop_token(self.restored(tokens), self.tokenizer, *self.stop_sequences)
        if not termination.is_clean:
            return Message(role="assistant", content=text), termination
        calls, unparsed = _read_calls(text)
        if calls or unparsed:
            text = _BLOCK.sub("", text).strip()
        parts = split_thinking(text)
        return (
            Message(
                role="assistant",
                content=text if parts is None else parts,
                tool_calls=tuple(calls),
                unparsed_tool_calls=tuple(unparsed),
            ),
            termination,
        )

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[ToolSpec], system_prompt: str = ""
    ) -> list[Message]:
        """One system message: the prompt as text, then the tools, with marks in the example of a call."""
        declared = [
            f"### {tool.name}\nDescription: {tool.description}\n\nParameters: {json.dumps(tool.parameters)}"
            for tool in tools
        ]
        if not tools:
            return [Message(role="system", content=system_prompt)]
        offered = MarkupPart(_TOOLS.format(tools="\n".join(declared)))
        return [Message(role="system", content=(TextPart(system_prompt), offered))]


def _system_pieces(part: ContentPart) -> list[Piece]:
    """The tools on offer with the marks of their example as marks; a prompt before them as text."""
    if not isinstance(part, TextPart):
        raise RenderError(
            what="a system message of text and tools has another part",
            where="messages[0].content",
            remedy="give the prompt as text",
        )
    if not isinstance(part, MarkupPart):
        return [part.text]
    pieces = _CALL_MARKS.split(part.text)
    return [Mark(piece) if _CALL_MARKS.fullmatch(piece) else piece for piece in pieces]


def _read_calls(text: str) -> tuple[list[ToolCall], list[UnparsedToolCall]]:
    calls: list[ToolCall] = []
    unparsed: list[UnparsedToolCall] = []
    block = _CALLS.search(text)
    for match in _CALL.finditer(block[1] if block else ""):
        arguments = match["arguments"].strip()
        try:
            json.loads(arguments)
        except json.JSONDecodeError as error:
            unparsed.append(UnparsedToolCall(raw_text=match[0], error=f"not JSON: {error}"))
        else:
            calls.append(ToolCall(name=match["name"], arguments=arguments))
    dangling = unterminated_block(text, CALLS_BEGIN, CALLS_END) or unterminated_block(
        text, CALL_BEGIN, CALL_END
    )
    return calls, [*unparsed, dangling] if dangling else unparsed


class DeepSeekV3ThinkingRenderer(_DeepSeekV3):
    """With thinking: prompts open a think block, history shows only that one was closed."""

    name: ClassVar[str] = "deepseekv3_thinking"

    def render_message(self, message: Message, context: RenderContext) -> RenderedMessage:
        """As the base, with ``</think>`` in the header of history and an empty block where none is given."""
        rendered = super().render_message(message, context)
        if message.role != "assistant" or _follows_tool(context):
            return rendered
        if not context.is_last:
            if not self.strip_thinking_from_history:
                return rendered
            return replace(rendered, header=text_chunk(self.spell(ASSISTANT, "</think>")))
        if not message.content or has_reasoning(message):
            return rendered
        body: list[Piece] = ["<think></think>", message.text, *self._calls(message), EOS]
        return replace(rendered, output=self.chunks(body))

    def generation_suffix(self, role: Role, context: RenderContext) -> tuple[int, ...]:
        """The header and an open think block; neither after a tool's result."""
        header = super().generation_suffix(role, context)
        return header if _follows_tool(context) else (*header, *self.literal("<think>"))

    def restored(self, tokens: Sequence[int]) -> Sequence[int]:
        """The opened block put back, where the answer closes one it did not open."""
        opening = self.special("<think>")
        if (tokens and tokens[0] == opening) or self.special("</think>") not in tokens:
            return tokens
        return [opening, *tokens]


class DeepSeekV3Renderer(_DeepSeekV3):
    """Without thinking: a closed think block is part of every header, and reasoning is no part of content.

    Reasoning that a message carries is left out by the format's own rule, in history and in training.
    """

    name: ClassVar[str] = "deepseekv3"

    @property
    def has_extension_property(self) -> bool:
        """True: nothing of the history is rewritten."""
        return True

    def render_message(self, message: Message, context: RenderContext) -> RenderedMessage:
        """As the base, without reasoning and with ``</think>`` in the assistant's header."""
        if message.role != "assistant" or _follows_tool(context):
            return super().render_message(message, context)
        plain = _THINKING.sub("", message.text) if isinstance(message.content, str) else message.text
        rendered = super().render_message(replace(message, content=plain), context)
        return replace(rendered, header=text_chunk(self.spell(ASSISTANT, "</think>")))
