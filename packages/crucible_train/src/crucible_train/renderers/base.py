"""What every renderer does: from messages to tokens with weights, and from tokens back to a message."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from crucible_ir.canonical import digest_of
from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.renderers.errors import RenderError
from crucible_train.renderers.expressible import Feature, require_expressible
from crucible_train.renderers.message import ImagePart, Message, Role, ToolSpec, last_index_of
from crucible_train.renderers.options import RendererOptions
from crucible_train.renderers.rendered import (
    Mark,
    ParseTermination,
    Piece,
    RenderContext,
    RenderedMessage,
    SupervisedExample,
    text_chunk,
)
from crucible_train.renderers.train_on_what import TrainOnWhat
from crucible_train.types import Chunk, EncodedTextChunk, ImageChunk, ModelInput

__all__ = ["Renderer"]

_SHORT, _KEPT = 32, 1024
"""Texts of up to so many characters are encoded once; so many of them at most."""


class Renderer(ABC):
    """One chat format over one tokenizer.

    A subclass gives ``render_message``, ``stop_sequences`` and ``parse_response``, and says in ``features``
    which kinds of content its format has; a message with any other kind raises ``RenderError``. Text
    is literal: what looks like a special token in a message's content does not become one.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    """Raised when the same messages become other tokens or weights; part of ``digest``."""
    features: ClassVar[frozenset[Feature]] = frozenset()
    disables_thinking: ClassVar[bool] = False
    """Whether the generation prompt tells the model not to reason."""

    def __init__(self, tokenizer: Tokenizer, options: RendererOptions | None = None) -> None:
        self.tokenizer = tokenizer
        self.settings = options or RendererOptions()
        self._short: dict[str, tuple[int, ...]] = {}
        self._specials: dict[str, int] = {}

    # What a format decides

    @property
    def has_extension_property(self) -> bool:
        """Whether a turn is written the same once it is history, so that one example shows every turn.

        Each turn's prompt, with its answer, then begins the next turn's prompt, where the answer opens as
        the prompt does.
        """
        return False

    @property
    def bos_tokens(self) -> tuple[int, ...]:
        """Ids that a conversation begins with."""
        return ()

    @property
    @abstractmethod
    def stop_sequences(self) -> tuple[str, ...] | tuple[int, ...]:
        """What ends a sampled answer: strings or token ids."""

    @abstractmethod
    def render_message(self, message: Message, context: RenderContext) -> RenderedMessage:
        """Tokens of one message at its place.

        Raises:
            RenderError: the format cannot express the message.
        """

    @abstractmethod
    def parse_response(self, tokens: Sequence[int]) -> tuple[Message, ParseTermination]:
        """The assistant's message that ``tokens`` spell, and how it ended.

        Raises:
            RenderError: the tokens go on after an end mark, so the sampler did not stop where it should.
        """

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[ToolSpec], system_prompt: str = ""
    ) -> list[Message]:
        """Messages that offer ``tools``, to stand before the conversation.

        Raises:
            RenderError: the format has no tools.
        """
        raise RenderError(
            what=f"the format {self.name!r} has no tools",
            where=f"{type(self).__name__}.create_conversation_prefix_with_tools",
            remedy="use a renderer with tool calls, such as 'qwen3'",
        )

    def generation_suffix(self, role: Role, context: RenderContext) -> tuple[int, ...]:
        """Ids that open the message to be sampled: by default its header."""
        header = self.render_message(Message(role=role, content=""), context).header
        return () if header is None else header.tokens

    def prepare(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation as the format has it: some put a system message before every one."""
        return list(messages)

    def turn_start(self, messages: Sequence[Message]) -> int:
        """Index of the first message of the turn the model produces: after the last user message."""
        return last_index_of("user", messages) + 1

    def output_is_trained(self, message: Message, context: RenderContext, what: TrainOnWhat) -> bool:
        """Whether the message's output carries loss."""
        is_assistant = message.role == "assistant"
        match what:
            case TrainOnWhat.LAST_ASSISTANT_MESSAGE:
                return is_assistant and context.is_last
            case TrainOnWhat.LAST_ASSISTANT_TURN:
                return is_assistant and context.in_last_turn
            case TrainOnWhat.ALL_ASSISTANT_MESSAGES:
                return is_assistant
            case TrainOnWhat.ALL_MESSAGES | TrainOnWhat.ALL_TOKENS:
                return True
            case TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES:
                return message.role in ("user", "system")
            case TrainOnWhat.CUSTOMIZED:
                return bool(message.trainable)

    @property
    def options(self) -> dict[str, object]:
        """Settings of this instance that change its tokens."""
        return {}

    @property
    def digest(self) -> str:
        """Digest of what decides the tokens of a conversation, apart from the tokenizer."""
        return digest_of({"renderer": self.name, "version": self.version, "options": self.options})

    # What all formats share

    def literal(self, text: str) -> list[int]:
        """Ids of text that nobody meant as markup; those of short texts, such as headers, are kept."""
        if len(text) > _SHORT:
            return self.tokenizer.encode(text)
        known = self._short.get(text)
        if known is None:
            known = tuple(self.tokenizer.encode(text))
            if len(self._short) < _KEPT:
                self._short[text] = known
        return list(known)

    def chunks(self, pieces: Iterable[Piece]) -> tuple[Chunk, ...]:
        """Chunks of text, marks and images; text between two images is one chunk, encoded in one go.

        Raises:
            RenderError: there is an image and no image processor, or the vocabulary lacks a mark.
        """
        found: list[Chunk] = []
        tokens: list[int] = []
        text = ""
        for piece in pieces:
            if isinstance(piece, str) and not isinstance(piece, Mark):
                text += piece
                continue
            tokens += self.literal(text) if text else []
            text = ""
            if isinstance(piece, Mark):
                tokens.append(self.special(piece))
                continue
            found += [text_chunk(tokens)] if tokens else []
            found.append(self._image_chunk(piece))
            tokens = []
        tokens += self.literal(text) if text else []
        return (*found, text_chunk(tokens)) if tokens or not found else tuple(found)

    def spell(self, *pieces: str) -> list[int]:
        """Ids of text and marks.

        Raises:
            RenderError: the vocabulary lacks a mark.
        """
        return ModelInput(self.chunks(pieces)).to_ints()

    def _image_chunk(self, image: Piece) -> ImageChunk:
        assert isinstance(image, ImagePart)
        if self.settings.images is None:
            raise RenderError(
                what=f"{self.name!r} was given an image and no image processor",
                where="RendererOptions.images",
                remedy="give the model's image processor, which knows how many positions an image takes",
            )
        return ImageChunk(
            data=image.data,
            format=image.format,
            expected_tokens=self.settings.images.count_positions(image),
        )

    def special(self, token: str) -> int:
        """Id of one special token.

        Raises:
            RenderError: the vocabulary lacks it, so the tokenizer is not one of this format.
        """
        found = self._specials.get(token)
        if found is not None:
            return found
        found = self.tokenizer.token_id(token)
        if found is None:
            raise RenderError(
                what=f"the tokenizer has no token {token!r}",
                where=f"renderer {self.name!r}",
                remedy="choose the renderer that belongs to the model (recommended_renderer)",
            )
        self._specials[token] = found
        return found

    def build_generation_prompt(
        self, messages: Sequence[Message], role: Role = "assistant", prefill: str | None = None
    ) -> ModelInput:
        """The input after which a model writes the next message of ``role``.

        ``prefill`` is text that the answer begins with. Empty chunks are left out.

        Raises:
            RenderError: the format cannot express a message.
        """
        return self._prompt(self.prepare(messages), role, prefill)

    def _prompt(self, messages: Sequence[Message], role: Role, prefill: str | None) -> ModelInput:
        turn_start = self.turn_start(messages)
        chunks: list[Chunk] = [text_chunk(self.bos_tokens)]
        for index, message in enumerate(messages):
            rendered = self._render(message, RenderContext.at(index, messages, turn_start))
            chunks += [rendered.header or text_chunk(()), *rendered.output]
        after = RenderContext.at(len(messages), messages, turn_start)
        chunks.append(text_chunk(self.generation_suffix(role, after)))
        chunks.append(text_chunk(self.literal(prefill) if prefill else ()))
        return ModelInput(tuple(chunk for chunk in chunks if chunk.length))

    def build_supervised_example(
        self, messages: Sequence[Message], train_on_what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_MESSAGE
    ) -> SupervisedExample:
        """The whole conversation as one sequence, with a weight per token.

        In the ``LAST_…`` modes nothing that the generation prompt supplies carries loss, and in none do the
        positions of an image, which no token stands for. Without the
        extension property, earlier assistant turns stand in another context than they are sampled in:
        ``build_supervised_examples`` gives each its own.

        Raises:
            RenderError: the format cannot express a message, ``trainable`` is set where the mode forbids
                it or missing where the mode needs it, or a turn reasons after a prompt that forbids it.
        """
        what = TrainOnWhat(train_on_what)
        messages = self.prepare(messages)
        turn_start = self.turn_start(messages[:-1])
        pieces: list[tuple[Chunk, bool]] = []
        if self.bos_tokens:
            pieces.append((text_chunk(self.bos_tokens), False))
        for index, message in enumerate(messages):
            _require_trainable_fits(message, what, index)
            context = RenderContext.at(index, messages, turn_start)
            rendered = self._render(message, context)
            trained = self.output_is_trained(message, context, what)
            if rendered.header is not None:
                pieces.append((rendered.header, what is TrainOnWhat.ALL_TOKENS))
            pieces += [(chunk, trained and isinstance(chunk, EncodedTextChunk)) for chunk in rendered.output]
            if context.is_last and rendered.stop_overlap is not None:
                pieces.append((rendered.stop_overlap, trained))
        model_input = ModelInput(tuple(chunk for chunk, _ in pieces))
        weights = np.repeat(
            np.array([trained for _, trained in pieces], dtype=np.float32),
            np.array([chunk.length for chunk, _ in pieces], dtype=np.int64),
        )
        return SupervisedExample(model_input, self._without_prompt(messages, what, model_input, weights))

    def build_supervised_examples(
        self, messages: Sequence[Message], train_on_what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_TURN
    ) -> list[SupervisedExample]:
        """Examples in which every trained turn stands in the context it is sampled in.

        One with the extension property; without it, one per trained assistant message.

        Raises:
            RenderError: as ``build_supervised_example``, or the mode trains what is not a turn of the
                assistant and the format has no extension property.
        """
        what = TrainOnWhat(train_on_what)
        if self.has_extension_property:
            return [self.build_supervised_example(messages, what)]
        first = {
            TrainOnWhat.LAST_ASSISTANT_MESSAGE: len(messages) - 1,
            TrainOnWhat.LAST_ASSISTANT_TURN: self.turn_start(messages),
            TrainOnWhat.ALL_ASSISTANT_MESSAGES: 0,
        }.get(what)
        if first is None:
            raise RenderError(
                what=f"{what.value!r} cannot be split into turns, and {self.name!r} has no extension property",
                where="build_supervised_examples",
                remedy="train on assistant messages, or use build_supervised_example",
            )
        return [
            self.build_supervised_example(messages[: index + 1], TrainOnWhat.LAST_ASSISTANT_MESSAGE)
            for index in range(max(first, 0), len(messages))
            if messages[index].role == "assistant"
        ]

    def _render(self, message: Message, context: RenderContext) -> RenderedMessage:
        normal = require_expressible(message, self.features, renderer=self.name, index=context.index)
        return self.render_message(normal, context)

    def _prompt_end(self, messages: Sequence[Message], what: TrainOnWhat) -> int | None:
        """Index of the message that a generation prompt stops before, in the modes that have one."""
        if what is TrainOnWhat.LAST_ASSISTANT_MESSAGE:
            end = len(messages) - 1
        elif what is TrainOnWhat.LAST_ASSISTANT_TURN:
            end = last_index_of("user", messages) + 1
        else:
            return None
        return end if 0 <= end < len(messages) and messages[end].role == "assistant" else None

    def _without_prompt(
        self,
        messages: Sequence[Message],
        what: TrainOnWhat,
        model_input: ModelInput,
        weights: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        end = self._prompt_end(messages, what)
        if end is None or not all(isinstance(chunk, EncodedTextChunk) for chunk in model_input.chunks):
            return weights
        prompt = self._prompt(messages[:end], "assistant", None).to_ints()
        if model_input.to_ints()[: len(prompt)] != prompt:
            if not self.disables_thinking:
                return weights
            raise RenderError(
                what=f"the turn that begins at message {end} reasons, and the prompt of {self.name!r} forbids it",
                where=f"messages[{end}]",
                remedy="use the renderer with thinking, or remove the reasoning",
            )
        weights[: len(prompt)] = 0.0
        return weights


def _require_trainable_fits(message: Message, what: TrainOnWhat, index: int) -> None:
    if (message.trainable is not None) == (what is TrainOnWhat.CUSTOMIZED):
        return
    missing = message.trainable is None
    raise RenderError(
        what="trainable is missing" if missing else f"trainable is set, and the mode is {what.value!r}",
        where=f"messages[{index}].trainable",
        remedy="say true or false on every message" if missing else "use 'customized', or leave it out",
    )
