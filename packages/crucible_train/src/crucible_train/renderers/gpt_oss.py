"""The chat format of gpt-oss ("harmony"): every message names its channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from crucible_ir.errors import ConfigError
from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.renderers.base import Renderer
from crucible_train.renderers.errors import RenderError
from crucible_train.renderers.expressible import Feature, only_text
from crucible_train.renderers.harmony import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    MESSAGE,
    RETURN,
    START,
    read_harmony,
)
from crucible_train.renderers.message import Message, TextPart, ThinkingPart, ToolSpec
from crucible_train.renderers.options import RendererOptions
from crucible_train.renderers.rendered import (
    ParseTermination,
    Piece,
    RenderContext,
    RenderedMessage,
    text_chunk,
)
from crucible_train.renderers.typescript import declare_tool

__all__ = [
    "GptOssHighReasoningRenderer",
    "GptOssLowReasoningRenderer",
    "GptOssMediumReasoningRenderer",
    "GptOssRenderer",
]

SYSTEM_ROLE = "_gptoss_internal_system"
"""The model's own system message; a conversation's ``system`` becomes its ``developer`` message."""

_SYSTEM = """You are ChatGPT, a large language model trained by OpenAI.
Knowledge cutoff: 2024-06
Current date: {date}

Reasoning: {effort}

# Valid channels: analysis, commentary, final. Channel must be included for every message."""
"""The wording that the models were trained on (their tokenizer's own template)."""


class GptOssRenderer(Renderer):
    """gpt-oss without a system message of the model's own.

    Reasoning goes to the channel ``analysis``, answers to ``final``, tool calls to ``commentary``. Results of
    tools need the tool's name.
    """

    name: ClassVar[str] = "gpt_oss_no_sysprompt"
    features: ClassVar[frozenset[Feature]] = frozenset({"parts", "thinking", "tool_calls"})
    effort: ClassVar[str | None] = None

    def __init__(self, tokenizer: Tokenizer, options: RendererOptions | None = None) -> None:
        super().__init__(tokenizer, options)
        if self.effort is not None and self.settings.current_date is None:
            raise ConfigError(
                what=f"{self.name!r} has no current date, which its system message names",
                where="RendererOptions.current_date",
                remedy="give a fixed day such as '2025-01-01', so that the run can be repeated",
            )

    @property
    def options(self) -> dict[str, object]:
        """The date in the system message, if there is one."""
        return {} if self.effort is None else {"current_date": self.settings.current_date}

    @property
    def stop_sequences(self) -> tuple[int, ...]:
        """``<|return|>`` after an answer, ``<|call|>`` after a tool call."""
        return (self.special(RETURN), self.special(CALL))

    def prepare(self, messages: Sequence[Message]) -> list[Message]:
        """The model's own system message before the conversation, if the effort is to be named."""
        if self.effort is None:
            return list(messages)
        marked = any(message.trainable is not None for message in messages)
        content = _SYSTEM.format(date=self.settings.current_date, effort=self.effort)
        return [Message(role=SYSTEM_ROLE, content=content, trainable=False if marked else None), *messages]

    def render_message(self, message: Message, context: RenderContext) -> RenderedMessage:
        """``<|start|>`` and the author as header; channel, content and end mark as output.

        Raises:
            RenderError: a tool's result without the tool's name.
        """
        header, body = self._pieces(message, context)
        return RenderedMessage(header=text_chunk(self.spell(START, header)), output=self.chunks(body))

    def _pieces(self, message: Message, context: RenderContext) -> tuple[str, list[Piece]]:
        match message.role:
            case "assistant":
                return "assistant", self._assistant(message, is_last=context.is_last)
            case "tool":
                name = self._tool_name(message, context)
                text = only_text(message, self.name, context.index)
                return f"{name} to=assistant", [CHANNEL, "commentary", MESSAGE, text, END]
            case "system":
                text = only_text(message, self.name, context.index)
                return "developer", [MESSAGE, f"# Instructions\n\n{text}\n\n", END]
            case role:
                text = only_text(message, self.name, context.index)
                return "system" if role == SYSTEM_ROLE else role, [MESSAGE, text, END]

    @staticmethod
    def _assistant(message: Message, *, is_last: bool) -> list[Piece]:
        thinking = "".join(part.thinking for part in message.parts if isinstance(part, ThinkingPart))
        text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
        again = [END, START, "assistant"]
        pieces: list[Piece] = []
        if thinking:
            pieces += [CHANNEL, "analysis", MESSAGE, thinking, *again]
        if not message.tool_calls:
            return [*pieces, CHANNEL, "final", MESSAGE, text, RETURN if is_last else END]
        if text:
            pieces += [CHANNEL, "commentary", MESSAGE, text, *again]
        for number, call in enumerate(message.tool_calls):
            call.decoded_arguments()
            pieces += [START, "assistant"] if number else []
            pieces += [f" to=functions.{call.name}", CHANNEL, "commentary ", CONSTRAIN, "json"]
            pieces += [MESSAGE, call.arguments, CALL]
        return pieces

    def _tool_name(self, message: Message, context: RenderContext) -> str:
        if not message.name:
            raise RenderError(
                what=f"{self.name!r} needs the name of the tool that gave a result",
                where=f"messages[{context.index}].name",
                remedy="give the name of the called function",
            )
        return message.name if message.name.startswith("functions.") else f"functions.{message.name}"

    def parse_response(self, tokens: Sequence[int]) -> tuple[Message, ParseTermination]:
        """Channels as parts, messages to functions as calls.

        Raises:
            RenderError: there are two end marks of one kind.
        """
        ids = list(tokens)
        stops = self.stop_sequences
        if any(ids.count(stop) > 1 for stop in stops):
            raise RenderError(
                what="several stop tokens in one answer",
                where="parse_response",
                remedy="sample with the renderer's stop_sequences",
            )
        ends = [ids.index(stop) for stop in stops if stop in ids]
        if not ends:
            message = Message(role="assistant", content=self.tokenizer.decode(ids))
            return message, ParseTermination.MALFORMED
        return read_harmony(self.tokenizer.decode(ids[: min(ends)])), ParseTermination.STOP_SEQUENCE

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[ToolSpec], system_prompt: str = ""
    ) -> list[Message]:
        """A system message about the channel of tools, and a developer message with prompt and tools."""
        messages: list[Message] = []
        sections: list[str] = [f"# Instructions\n\n{system_prompt}"] if system_prompt else []
        if tools:
            about = "Calls to these tools must go to the commentary channel: 'functions'."
            messages.append(Message(role=SYSTEM_ROLE, content=about))
            declared = "\n\n".join(declare_tool(tool) for tool in tools)
            sections.append(
                "# Tools\n\n## functions\n\n"
                f"namespace functions {{\n\n{declared}\n\n}} // namespace functions"
            )
        if sections:
            messages.append(Message(role="developer", content="\n\n".join(sections)))
        return messages


class GptOssLowReasoningRenderer(GptOssRenderer):
    """gpt-oss with the effort ``low`` in the system message."""

    name: ClassVar[str] = "gpt_oss_low_reasoning"
    effort: ClassVar[str | None] = "low"


class GptOssMediumReasoningRenderer(GptOssRenderer):
    """gpt-oss with the effort ``medium`` in the system message."""

    name: ClassVar[str] = "gpt_oss_medium_reasoning"
    effort: ClassVar[str | None] = "medium"


class GptOssHighReasoningRenderer(GptOssRenderer):
    """gpt-oss with the effort ``high`` in the system message."""

    name: ClassVar[str] = "gpt_oss_high_reasoning"
    effort: ClassVar[str | None] = "high"
