"""The chat format that a tokenizer brings along: its own template, with loss weights for every mode."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import ConfigError
from crucible_train.ports.chat_template import ChatTemplated
from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.renderers.base import Renderer
from crucible_train.renderers.chat_template_encoding import TemplateEncoder
from crucible_train.renderers.chat_template_facts import TemplateFacts, find_facts
from crucible_train.renderers.chat_template_parsing import read_answer
from crucible_train.renderers.chat_template_rows import TOOLS_ROLE, Row, row_of, tool_row
from crucible_train.renderers.chat_template_spans import Span, answer_spans, other_span
from crucible_train.renderers.chat_template_text import ChatText, Draft, TemplateWriter
from crucible_train.renderers.errors import RenderError
from crucible_train.renderers.expressible import Feature, require_expressible
from crucible_train.renderers.message import Message, Role, ToolSpec
from crucible_train.renderers.options import RendererOptions
from crucible_train.renderers.rendered import (
    ParseTermination,
    RenderContext,
    RenderedMessage,
    SupervisedExample,
    text_chunk,
)
from crucible_train.renderers.train_on_what import TrainOnWhat
from crucible_train.types import ModelInput

__all__ = ["ChatTemplateRenderer"]

_ROLES = ("system", "developer", "user", "assistant", "tool")
_CLOCK = "strftime_now"


class ChatTemplateRenderer(Renderer):
    """Whatever format the tokenizer's chat template writes.

    The tokens are the template's own, and a message of the assistant carries loss on exactly what follows its
    prompt, through its end mark. A conversation for which that cannot be shown is refused. The template
    writes whole conversations, so ``render_message`` has nothing to give.
    """

    name: ClassVar[str] = "chat_template"
    features: ClassVar[frozenset[Feature]] = frozenset({"parts", "thinking", "tool_calls"})

    def __init__(self, tokenizer: Tokenizer, options: RendererOptions | None = None) -> None:
        super().__init__(tokenizer, options)
        source = tokenizer.chat_template if isinstance(tokenizer, ChatTemplated) else None
        if source is None or not isinstance(tokenizer, ChatTemplated):
            raise ConfigError(
                what="the tokenizer has no chat template",
                where="renderer 'chat_template'",
                remedy="name another renderer (base models: 'role_colon'), or give the tokenizer a chat_template",
            )
        self._source = source
        self._writer = TemplateWriter(tokenizer, self.settings.current_date)
        self._encoder = TemplateEncoder(tokenizer)
        self._facts = self._find_facts()

    def _find_facts(self) -> TemplateFacts:
        try:
            return find_facts(self._writer, self._encoder)
        except ConfigError as error:
            if _CLOCK not in self._source or self.settings.current_date is not None:
                raise
            raise ConfigError(
                what=f"the tokenizer's chat template asks for the current date ({error.what})",
                where="RendererOptions.current_date",
                remedy="give a fixed day such as '2025-01-01', so that the run can be repeated",
            ) from error

    # What the template decides

    @property
    def has_extension_property(self) -> bool:
        """Whether the template wrote every kind of answer the same once it was history, when it was asked."""
        return self._facts.extends

    @cached_property
    def bos_tokens(self) -> tuple[int, ...]:
        """The beginning-of-text token, if the template writes it."""
        bos = self.tokenizer.bos_token_id
        first = self.tokenizer.encode(self._facts.prompt, allow_special=True)[:1]
        return (bos,) if bos is not None and first == [bos] else ()

    @cached_property
    def stop_sequences(self) -> tuple[str, ...] | tuple[int, ...]:
        """What the template writes behind an answer and behind a tool call: tokens, or texts where it has none."""
        spelled = [self.tokenizer.encode(stop, allow_special=True) for stop in self._facts.stops]
        special = set(self.tokenizer.all_special_ids)
        if all(len(ids) == 1 and ids[0] in special for ids in spelled):
            return tuple(ids[0] for ids in spelled)
        return self._facts.stops

    @property
    def options(self) -> dict[str, object]:
        """Digest of the template, and the day where it names one."""
        dated = {"current_date": self.settings.current_date} if _CLOCK in self._source else {}
        return {"template": hashlib.sha256(self._source.encode()).hexdigest(), **dated}

    def render_message(self, message: Message, context: RenderContext) -> RenderedMessage:
        """Nothing: a template writes whole conversations.

        Raises:
            RenderError: always.
        """
        raise RenderError(
            what="a chat template writes whole conversations, and no message by itself",
            where=f"messages[{context.index}]",
            remedy="use build_supervised_example or build_generation_prompt",
        )

    # Prompts and examples

    def build_generation_prompt(
        self, messages: Sequence[Message], role: Role = "assistant", prefill: str | None = None
    ) -> ModelInput:
        """The template's prompt for an answer, and ``prefill``.

        Raises:
            RenderError: the template refuses the conversation or leaves a part of it out, or ``role`` is not the
                assistant.
        """
        if role != "assistant":
            raise RenderError(
                what=f"a chat template has no prompt for a message of {role!r}",
                where="build_generation_prompt.role",
                remedy="ask for a message of the assistant, or use another renderer",
            )
        chat = self._writer.conversation(self._draft(messages), prompt=True)
        parts = self._encoder.encode(chat.text, chat.draft.guard, _cuts(chat))
        ids = [token for part in parts for token in part]
        return ModelInput((text_chunk([*ids, *(self._encoder.continuation(prefill) if prefill else [])]),))

    def build_supervised_example(
        self, messages: Sequence[Message], train_on_what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_MESSAGE
    ) -> SupervisedExample:
        """The template's text of the whole conversation, with a weight per token.

        Raises:
            RenderError: the template refuses the conversation or leaves a part of it out, or what a message that
                is to be trained on becomes is not, beyond doubt, that message behind its prompt.
        """
        what = TrainOnWhat(train_on_what)
        draft = self._draft(messages)
        messages = _without_tools(messages)
        turn_start = self.turn_start(messages[:-1])
        trained = [
            index
            for index, message in enumerate(messages)
            if _trainable_fits(message, what, draft.where(index))
            and self.output_is_trained(message, RenderContext.at(index, messages, turn_start), what)
        ]
        everything = what is TrainOnWhat.ALL_TOKENS
        others = [] if everything else [index for index in trained if messages[index].role != "assistant"]
        chat = self._writer.conversation(draft, tails=others)
        spans = [(0, len(chat.text))] if everything else list(self._spans(chat, trained))
        return self._example(chat, spans)

    def _spans(self, chat: ChatText, trained: Sequence[int]) -> list[Span]:
        found: list[Span] = []
        for index in trained:
            if chat.draft.rows[index]["role"] == "assistant":
                found += answer_spans(chat, index, self._facts.stops)
            else:
                found.append(other_span(chat, index, self._encoder))
        return found

    def _example(self, chat: ChatText, spans: Sequence[Span]) -> SupervisedExample:
        edges = {edge for span in spans for edge in span} | set(_cuts(chat))
        cuts = sorted(edge for edge in edges if 0 < edge < len(chat.text))
        parts = self._encoder.encode(chat.text, chat.draft.guard, cuts)
        starts = [0, *cuts]
        ids = [token for part in parts for token in part]
        weights: NDArray[np.float32] = np.repeat(
            np.array([any(a <= start < b for a, b in spans) for start in starts], dtype=np.float32),
            np.array([len(part) for part in parts], dtype=np.int64),
        )
        bos = self.tokenizer.bos_token_id
        if (
            bos in self.stop_sequences
        ):  # one token begins texts and ends answers: only the first is a beginning
            weights[:1] *= ids[:1] != [bos]
        elif bos is not None:
            weights[np.array(ids) == bos] = 0.0
        return SupervisedExample(ModelInput((text_chunk(ids),)), weights)

    def _draft(self, messages: Sequence[Message]) -> Draft:
        tools: list[Row] = []
        first = len(messages) - len(_without_tools(messages))
        for message in messages[:first]:
            tools += json.loads(message.text)
        rows: list[dict[str, Any]] = []
        for number, message in enumerate(messages[first:]):
            index = number + first
            self._require_known_role(message, index)
            normal = require_expressible(message, self._expressible, renderer=self.name, index=index)
            rows.append(row_of(normal, index=index, arguments_as_text=self._facts.arguments_as_text))
        guard = self._encoder.guard_for([rows, tools])
        return Draft(
            rows=tuple(self._encoder.guarded(rows, guard)),
            tools=tuple(self._encoder.guarded(tools, guard)),
            guard=guard,
            first=first,
        )

    @cached_property
    def _expressible(self) -> frozenset[Feature]:
        """Without thinking where the template never writes reasoning that is given apart."""
        return self.features if self._facts.before is not None else self.features - {"thinking"}

    def _require_known_role(self, message: Message, index: int) -> None:
        """A role that the template does not name could become a mark of its own (``<|`` + role + ``|>``)."""
        role = message.role
        if role in _ROLES or f"'{role}'" in self._source or f'"{role}"' in self._source:
            return
        raise RenderError(
            what=f"the tokenizer's chat template knows no role {role!r}",
            where=f"messages[{index}].role",
            remedy=f"use one of {', '.join(_ROLES)}",
        )

    # Answers and tools

    def parse_response(self, tokens: Sequence[int]) -> tuple[Message, ParseTermination]:
        """Text, reasoning and calls, as the template frames them; a cut-off answer as plain text.

        Raises:
            RenderError: the tokens go on after an end mark.
        """
        ids = list(tokens)
        text = self.tokenizer.decode(ids)
        found = [stop for stop in self._facts.stops for _ in range(text.count(stop))]
        stops = set(self.stop_sequences)
        if all(isinstance(stop, int) for stop in stops):
            ends = [at for at, token in enumerate(ids) if token in stops]
            found = [self.tokenizer.decode([ids[at]]) for at in ends]
            text = self.tokenizer.decode(ids[: ends[0]]) if ends else text
        elif found:
            text = text.partition(found[0])[0]
        if len(found) > 1:
            raise RenderError(
                what=f"{len(found)} end marks in one answer",
                where="parse_response",
                remedy="sample with the renderer's stop_sequences",
            )
        if found:
            return read_answer(text, self._facts), ParseTermination.STOP_SEQUENCE
        if ids and ids[-1] == self.tokenizer.eos_token_id:
            return read_answer(self.tokenizer.decode(ids[:-1]), self._facts), ParseTermination.EOS
        return Message(role="assistant", content=text), ParseTermination.MALFORMED

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[ToolSpec], system_prompt: str = ""
    ) -> list[Message]:
        """A message that hands ``tools`` to the template, and the system message.

        Raises:
            RenderError: the template writes nothing of tools.
        """
        system = [Message(role="system", content=system_prompt)] if system_prompt else []
        if not tools:
            return system
        rows = [tool_row(tool) for tool in tools]
        offer = Message(role=TOOLS_ROLE, content=json.dumps(rows, ensure_ascii=False))
        ask = Message(role="user", content="?")
        with_tools = self.build_generation_prompt([offer, *system, ask]).to_ints()
        if with_tools == self.build_generation_prompt([*system, ask]).to_ints():
            raise RenderError(
                what="the tokenizer's chat template has no tools",
                where="ChatTemplateRenderer.create_conversation_prefix_with_tools",
                remedy="use a renderer with tool calls, such as 'qwen3'",
            )
        return [offer, *system]


def _cuts(chat: ChatText) -> list[int]:
    """Where the answers begin: no token runs over the end of a prompt, whoever is asked to go on from it."""
    prompts = (p.text for p in chat.prompts.values() if p.error is None and chat.text.startswith(p.text))
    return sorted({len(text) for text in prompts} - {0, len(chat.text)})


def _without_tools(messages: Sequence[Message]) -> list[Message]:
    count = next((i for i, message in enumerate(messages) if message.role != TOOLS_ROLE), len(messages))
    return list(messages[count:])


def _trainable_fits(message: Message, what: TrainOnWhat, where: str) -> bool:
    if (message.trainable is not None) == (what is TrainOnWhat.CUSTOMIZED):
        return True
    missing = message.trainable is None
    raise RenderError(
        what="trainable is missing" if missing else f"trainable is set, and the mode is {what.value!r}",
        where=f"{where}.trainable",
        remedy="say true or false on every message" if missing else "use 'customized', or leave it out",
    )
