"""Which tokens of a conversation carry loss."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["TrainOnWhat"]


class TrainOnWhat(StrEnum):
    """What a model learns from in one conversation.

    A message's output (its content and end mark) carries loss or not; headers carry it only in
    ``ALL_TOKENS``, a beginning-of-text token never.
    """

    LAST_ASSISTANT_MESSAGE = "last_assistant_message"
    """The last message, if the assistant wrote it."""
    LAST_ASSISTANT_TURN = "last_assistant_turn"
    """Every assistant message after the last user message: tool calls and the final answer."""
    ALL_ASSISTANT_MESSAGES = "all_assistant_messages"
    ALL_MESSAGES = "all_messages"
    """The output of every message, whoever wrote it."""
    ALL_TOKENS = "all_tokens"
    """Outputs and headers."""
    ALL_USER_AND_SYSTEM_MESSAGES = "all_user_and_system_messages"
    CUSTOMIZED = "customized"
    """Messages whose ``trainable`` is true; every message must say."""
