"""The chat formats of Qwen3.8: a reasoning effort, and reasoning kept in history."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.renderers.message import Message, TextPart
from crucible_train.renderers.options import RendererOptions
from crucible_train.renderers.qwen3_5 import EMPTY_BLOCK, Qwen3_5Renderer
from crucible_train.renderers.rendered import RenderContext

__all__ = [
    "Qwen3_8DisableThinkingRenderer",
    "Qwen3_8LowReasoningRenderer",
    "Qwen3_8MediumReasoningRenderer",
    "Qwen3_8Renderer",
]


class Qwen3_8Renderer(Qwen3_5Renderer):  # noqa: N801
    """Qwen3.8 at the effort ``xhigh``.

    An instruction about the effort begins the system message; every assistant message has a think block.
    Only a thinking part counts as reasoning: marks within a text are text.
    """

    name: ClassVar[str] = "qwen3_8_xhigh_reasoning"
    instruction: ClassVar[str] = (
        "Reasoning effort is set to xhigh. Please think carefully through the task, validate key "
        "assumptions, consider plausible alternatives, and prioritize correctness, consistency, and "
        "clarity in the final answer."
    )
    """The wording that the models were trained on (their tokenizer's own template)."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        options: RendererOptions | None = None,
        *,
        strip_thinking_from_history: bool = False,
    ) -> None:
        super().__init__(tokenizer, options, strip_thinking_from_history=strip_thinking_from_history)

    def prepare(self, messages: Sequence[Message]) -> list[Message]:
        """The instruction before the system message's text; a system message that says nothing goes."""
        if not messages or messages[0].role != "system":
            if not self.instruction:
                return list(messages)
            marked = any(message.trainable is not None for message in messages)
            added = Message(role="system", content=self.instruction, trainable=False if marked else None)
            return [added, *messages]
        system, rest = messages[0], list(messages[1:])
        if not all(isinstance(part, TextPart) for part in system.parts):
            before = [TextPart(f"{self.instruction}\n\n")] if self.instruction else []
            return [replace(system, content=(*before, *system.parts)), *rest]
        content = "\n\n".join(text for text in (self.instruction, system.text.strip()) if text)
        return [replace(system, content=content), *rest] if content else rest

    def strips_thinking(self, message: Message, context: RenderContext) -> bool:
        """Only up to the last user message, and only where history loses its reasoning."""
        if not self.strip_thinking_from_history or message.role != "assistant":
            return False
        return context.index <= context.last_user_index

    def empty_block(self, message: Message, context: RenderContext) -> str:
        """An empty think block wherever there is no thinking part."""
        if self.strip_thinking_from_history and context.index <= context.last_user_index:
            return ""
        return "" if message.has_thinking else EMPTY_BLOCK

    def argument_text(self, value: object) -> str:
        """Text as it is, anything else as JSON."""
        return value if isinstance(value, str) else json.dumps(value)


class Qwen3_8MediumReasoningRenderer(Qwen3_8Renderer):  # noqa: N801
    """Qwen3.8 at the effort ``medium``, which has no instruction."""

    name: ClassVar[str] = "qwen3_8_medium_reasoning"
    instruction: ClassVar[str] = ""


class Qwen3_8LowReasoningRenderer(Qwen3_8Renderer):  # noqa: N801
    """Qwen3.8 at the effort ``low``."""

    name: ClassVar[str] = "qwen3_8_low_reasoning"
    instruction: ClassVar[str] = (
        "Reasoning effort is set to low. Keep your thinking brief and focused, moving directly to the "
        "conclusion without unnecessary elaboration."
    )


class Qwen3_8DisableThinkingRenderer(Qwen3_8Renderer):  # noqa: N801
    """Qwen3.8 with thinking off: no instruction, and prompts end in an empty think block."""

    name: ClassVar[str] = "qwen3_8_disable_thinking"
    instruction: ClassVar[str] = ""
    disables_thinking: ClassVar[bool] = True
    prompt_thinking: ClassVar[str] = EMPTY_BLOCK
