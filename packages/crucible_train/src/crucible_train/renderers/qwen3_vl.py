"""The chat formats of the Qwen vision models, and what the later Qwen formats build on."""

from __future__ import annotations

from typing import ClassVar

from crucible_train.renderers.expressible import Feature
from crucible_train.renderers.message import ImagePart, Message, Role, TextPart, ThinkingPart
from crucible_train.renderers.qwen3 import Qwen3Renderer, json_call
from crucible_train.renderers.rendered import Mark, Piece, RenderContext, RenderedMessage, text_chunk

__all__ = ["Qwen3VLInstructRenderer", "Qwen3VLRenderer"]

START, END = Mark("<|im_start|>"), Mark("<|im_end|>")


class Qwen3VLRenderer(Qwen3Renderer):
    """Qwen3-VL: content of text and images; reasoning of history is stripped, none is put in."""

    name: ClassVar[str] = "qwen3_vl"
    features: ClassVar[frozenset[Feature]] = frozenset({"parts", "thinking", "tool_calls", "images"})
    groups_tool_results: ClassVar[bool] = False
    """Whether results of tools that follow one another share one user message."""
    prompt_thinking: ClassVar[str] = ""
    """What a prompt puts after the assistant's header."""

    def render_message(self, message: Message, context: RenderContext) -> RenderedMessage:
        """Header, then text between images as chunks; the end mark belongs to the last."""
        message = self.trimmed(message)
        supplied, written = self._opening(message, context)
        return RenderedMessage(
            header=text_chunk(self.spell(*supplied)),
            output=(
                *((text_chunk(self.literal(written)),) if written else ()),
                *self.chunks(self._body_pieces(message, context)),
            ),
        )

    def generation_suffix(self, role: Role, context: RenderContext) -> tuple[int, ...]:
        """The header and what the format puts after it."""
        return tuple(self.spell(*self._header_pieces(role, context), self.prompt_thinking))

    # What later formats change

    def trimmed(self, message: Message) -> Message:
        """The message with the white space that the format trims."""
        return message

    def empty_block(self, message: Message, context: RenderContext) -> str:
        """Text after the header of an assistant message that shows no reasoning."""
        return ""

    def strips_thinking(self, message: Message, context: RenderContext) -> bool:
        """Whether the message's reasoning is left out."""
        return self.strip_thinking_from_history and message.role == "assistant" and not context.is_last

    def thinking_text(self, thinking: str) -> str:
        """Reasoning with its marks."""
        return f"<think>{thinking}</think>"

    def calls_text(self, message: Message) -> str:
        """All calls of the message, and what separates them from the content."""
        return "\n" + "\n".join(json_call(call) for call in message.tool_calls)

    def tool_result_marks(self) -> tuple[str, str]:
        """Text before and after the result of a tool."""
        return "<tool_response>\n", "\n</tool_response>"

    def next_tool_result(self) -> str:
        """Text between results of tools that share a user message."""
        return "\n"

    # What all share

    def _header_pieces(self, role: Role, context: RenderContext) -> list[str]:
        return ["\n" if context.index > 0 else "", START, f"{role}\n"]

    def _opening(self, message: Message, context: RenderContext) -> tuple[list[str], str]:
        """What the prompt supplies of the message, and what the model writes of its empty block."""
        is_tool = message.role == "tool"
        previous_is_tool = context.previous is not None and context.previous.role == "tool"
        if self.groups_tool_results and is_tool and previous_is_tool:
            return [self.next_tool_result()], ""
        header = self._header_pieces("user" if is_tool else message.role, context)
        block = self.empty_block(message, context) if message.role == "assistant" else ""
        supplied = self.prompt_thinking
        if context.is_last and message.role == "assistant" and supplied and block.startswith(supplied):
            return [*header, supplied], block.removeprefix(supplied)
        return [*header, block], ""

    def _body_pieces(self, message: Message, context: RenderContext) -> list[Piece]:
        pieces = self._content_pieces(message, stripping=self.strips_thinking(message, context))
        if message.role == "tool":
            before, after = self.tool_result_marks()
            pieces = [before, *pieces, after]
        if message.tool_calls:
            pieces.append(self.calls_text(message))
        goes_on = context.following is not None and context.following.role == "tool"
        if not (self.groups_tool_results and message.role == "tool" and goes_on):
            pieces.append(END)
        return pieces

    def _content_pieces(self, message: Message, *, stripping: bool) -> list[Piece]:
        pieces: list[Piece] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                pieces.append(part.text)
            elif isinstance(part, ImagePart):
                pieces += [Mark("<|vision_start|>"), part, Mark("<|vision_end|>")]
            elif isinstance(part, ThinkingPart) and not stripping:
                pieces.append(self.thinking_text(part.thinking))
        return pieces


class Qwen3VLInstructRenderer(Qwen3VLRenderer):
    """Qwen3-VL Instruct: as the thinking models, and answers are read as they are."""

    name: ClassVar[str] = "qwen3_vl_instruct"
    frames_thinking: ClassVar[bool] = False
