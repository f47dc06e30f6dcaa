"""What rendering passes around: a message's place, its tokens in parts, and an example with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crucible_train.renderers.message import ImagePart, Message, last_index_of
from crucible_train.types import Chunk, EncodedTextChunk, ModelInput

__all__ = [
    "Mark",
    "ParseTermination",
    "Piece",
    "RenderContext",
    "RenderedMessage",
    "SupervisedExample",
    "text_chunk",
]


class Mark(str):
    """A special token of a format, as opposed to text that may look like one."""

    __slots__ = ()


Piece = str | ImagePart
"""Text, a ``Mark``, or an image."""


class ParseTermination(StrEnum):
    """How a sampled answer ended."""

    STOP_SEQUENCE = "stop_sequence"
    EOS = "eos"
    """At the model's end-of-text token, without the format's own end mark."""
    MALFORMED = "malformed"
    """Cut off, or with marks where none belong; the message is what could be read."""

    @property
    def is_clean(self) -> bool:
        """Whether the answer is complete."""
        return self is not ParseTermination.MALFORMED


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderContext:
    """Where a message stands in its conversation.

    ``in_last_turn`` says that the message belongs to the turn the model is asked to produce, which may
    span several messages (a tool call, its result, the answer); ``is_last`` is the final message alone.
    """

    index: int
    is_last: bool
    previous: Message | None = None
    following: Message | None = None
    last_user_index: int = -1
    in_last_turn: bool = False

    @classmethod
    def at(cls, index: int, messages: Sequence[Message], turn_start: int) -> RenderContext:
        """The place of ``messages[index]``, or of a message to come when ``index`` is their number."""
        count = len(messages)
        return cls(
            index=index,
            is_last=index >= count - 1,
            previous=messages[index - 1] if index > 0 else None,
            following=messages[index + 1] if index + 1 < count else None,
            last_user_index=last_index_of("user", messages),
            in_last_turn=index >= turn_start,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedMessage:
    """A message's tokens: what introduces it, what its author writes, what only closes a conversation.

    ``header`` is None where a message goes on where the one before ended. ``stop_overlap`` is the part of a
    stop sequence that the next message's header would repeat (``User:`` of ``\\n\\nUser:``); it is used after
    the last message alone.
    """

    header: EncodedTextChunk | None
    output: tuple[Chunk, ...]
    stop_overlap: EncodedTextChunk | None = None


class SupervisedExample(NamedTuple):
    """An input of N positions and a loss weight float32 (N,) for each."""

    model_input: ModelInput
    weights: NDArray[np.float32]


def text_chunk(tokens: Sequence[int]) -> EncodedTextChunk:
    """A text chunk of these ids."""
    return EncodedTextChunk(tuple(tokens))
