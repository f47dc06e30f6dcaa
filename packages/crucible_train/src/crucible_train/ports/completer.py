"""The port of a model that answers conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from crucible_train.ports.handle import Handle
from crucible_train.types import SamplingParams

if TYPE_CHECKING:  # renderers are built on the port of tokenizers
    from crucible_train.renderers.message import Message, ToolSpec
    from crucible_train.renderers.rendered import ParseTermination

__all__ = ["Completer", "Completion", "CompletionResponse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer: the message, and how it came to an end.

    ``stop_reason`` says whether the answer came to a stop or to the number of tokens that was allowed, ``termination``
    whether the message is whole. ``token_count`` counts what was sampled, end marks included. ``tokens`` and
    ``logprobs`` (at temperature 1, one per token) are None where the source tells text alone.
    """

    message: Message
    stop_reason: Literal["stop", "length"]
    termination: ParseTermination
    token_count: int
    tokens: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None

    @property
    def text(self) -> str:
        """The message's text, without reasoning and tool calls."""
        return self.message.text


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionResponse:
    """Answers to one conversation; ``prompt_tokens`` counts what the model read, once for all answers."""

    completions: tuple[Completion, ...]
    prompt_tokens: int

    @property
    def completion_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(completion.token_count for completion in self.completions)


@runtime_checkable
class Completer(Protocol):
    """A model that is given messages and gives a message, wherever it runs."""

    def complete(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        *,
        num_samples: int = 1,
        tools: Sequence[ToolSpec] = (),
    ) -> Handle[CompletionResponse]:
        """``num_samples`` answers of the assistant to the conversation, which may call one of ``tools``.

        An answer ends where the model's chat format ends one. ``params.stop`` names further places; a stop string or
        token is no part of the message. None and [] name none.

        Raises (at the call or from the handle):
            ConfigError: no message, no sample, or settings that the source does not have.
            RenderError: the chat format cannot express the conversation or the tools.
            DataError: the conversation is longer than the model reads.
            ConflictError: the completer is closed.
            ServiceError: the source failed; retryable where the same call may go through later.
        """
        ...

    async def close(self) -> None:
        """Free what the completer holds; closing twice is harmless."""
        ...
