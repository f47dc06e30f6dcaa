"""The chat format of Llama 3 Instruct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from crucible_train.renderers.base import Renderer
from crucible_train.renderers.message import Message
from crucible_train.renderers.parsing import split_at_stop_token
from crucible_train.renderers.rendered import ParseTermination, RenderContext, RenderedMessage, text_chunk

__all__ = ["Llama3Renderer"]


class Llama3Renderer(Renderer):
    """Headers between special tokens, each message closed by ``<|eot_id|>``.

    Text only. Two differences from the model's own template are meant: no sentence about a knowledge
    cut-off is put into the system message, and tool calls are refused (the format writes them as
    bare JSON, which an answer cannot be told from).
    """

    name: ClassVar[str] = "llama3"

    @property
    def has_extension_property(self) -> bool:
        """True: nothing of the history is rewritten."""
        return True

    @property
    def bos_tokens(self) -> tuple[int, ...]:
        """``<|begin_of_text|>``."""
        return (self.special("<|begin_of_text|>"),)

    @property
    def stop_sequences(self) -> tuple[int, ...]:
        """``<|eot_id|>``."""
        return (self.special("<|eot_id|>"),)

    def render_message(self, message: Message, context: RenderContext) -> RenderedMessage:
        """Header, text and end mark; content and end mark are one chunk."""
        header = [
            self.special("<|start_header_id|>"),
            *self.literal(message.role),
            self.special("<|end_header_id|>"),
            *self.literal("\n\n"),
        ]
        output = [*self.literal(message.text), *self.stop_sequences]
        return RenderedMessage(header=text_chunk(header), output=(text_chunk(output),))

    def parse_response(self, tokens: Sequence[int]) -> tuple[Message, ParseTermination]:
        """The text before ``<|eot_id|>``."""
        text, termination = split_at_stop_token(tokens, self.tokenizer, *self.stop_sequences)
        return Message(role="assistant", content=text), termination
