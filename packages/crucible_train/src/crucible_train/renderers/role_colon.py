"""``User: …\\n\\nAssistant: …``: the format for base models that know no chat format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from crucible_train.renderers.base import Renderer
from crucible_train.renderers.message import Message
from crucible_train.renderers.rendered import ParseTermination, RenderContext, RenderedMessage, text_chunk

__all__ = ["RoleColonRenderer"]

_STOP = "\n\nUser:"


class RoleColonRenderer(Renderer):
    """Role and content in plain text, after the vocabulary's beginning-of-text token if it has one.

    Text only: no reasoning parts, tool calls or images. A message of role ``tool`` reads ``Tool: …``.
    """

    name: ClassVar[str] = "role_colon"

    @property
    def has_extension_property(self) -> bool:
        """True: nothing of the history is rewritten."""
        return True

    @property
    def bos_tokens(self) -> tuple[int, ...]:
        """The vocabulary's beginning-of-text token, if there is one."""
        bos = self.tokenizer.bos_token_id
        return () if bos is None else (bos,)

    @property
    def stop_sequences(self) -> tuple[str, ...]:
        """The text that begins the next user message."""
        return (_STOP,)

    def render_message(self, message: Message, context: RenderContext) -> RenderedMessage:
        """``Role:``, then a space, the text and an empty line."""
        return RenderedMessage(
            header=text_chunk(self.literal(f"{message.role.capitalize()}:")),
            output=(text_chunk(self.literal(f" {message.text}\n\n")),),
            stop_overlap=text_chunk(self.literal("User:")) if message.role == "assistant" else None,
        )

    def parse_response(self, tokens: Sequence[int]) -> tuple[Message, ParseTermination]:
        """The text before the stop text; an end-of-text token alone ends an answer as well."""
        ids = list(tokens)
        eos = self.tokenizer.eos_token_id
        at_eos = bool(ids) and eos is not None and ids[-1] == eos
        pieces = self.tokenizer.decode(ids[:-1] if at_eos else ids).split(_STOP)
        message = Message(role="assistant", content=pieces[0].removeprefix(" ").removesuffix("\n\n"))
        if len(pieces) == 1 and at_eos:
            return message, ParseTermination.EOS
        if len(pieces) == 2 and not at_eos:
            return message, ParseTermination.STOP_SEQUENCE
        return message, ParseTermination.MALFORMED
