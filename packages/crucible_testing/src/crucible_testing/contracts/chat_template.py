"""Contract of ``crucible_train.ports.ChatTemplated``."""

from __future__ import annotations

from typing import Protocol

import pytest

from crucible_train.ports import ChatTemplated, TemplateCall, Tokenizer

__all__ = ["ChatTemplatedContract"]


class _Templated(ChatTemplated, Tokenizer, Protocol):
    """Both ports in one."""


ASK = {"role": "user", "content": "Where is the cat?"}
ANSWER = {"role": "assistant", "content": "On the mat."}


class ChatTemplatedContract:
    """Inherit, and give a fixture ``templated``: a tokenizer whose template writes a question and an answer."""

    @pytest.fixture
    def templated(self) -> _Templated:
        raise NotImplementedError

    def test_it_fits_both_ports(self, templated: _Templated) -> None:
        assert isinstance(templated, ChatTemplated)
        assert isinstance(templated, Tokenizer)
        assert templated.chat_template

    def test_messages_stand_in_the_text_in_order(self, templated: _Templated) -> None:
        text = templated.render_chats([TemplateCall(messages=(ASK, ANSWER))])[0]
        assert text.error is None
        assert 0 <= text.text.index(ASK["content"]) < text.text.index(ANSWER["content"])

    def test_each_call_is_answered_in_its_place_as_if_alone(self, templated: _Templated) -> None:
        calls = [
            TemplateCall(messages=(ASK, ANSWER)),
            TemplateCall(messages=(ASK,), add_generation_prompt=True),
            TemplateCall(messages=(ANSWER, ASK)),
        ]
        assert templated.render_chats(calls) == [templated.render_chats([call])[0] for call in calls]
        assert templated.render_chats([]) == []

    def test_what_cannot_be_written_is_an_error_in_its_place(self, templated: _Templated) -> None:
        broken = TemplateCall(messages=({"content": "no role", "tool_calls": 3},))
        calls = [TemplateCall(messages=(ASK, ANSWER)), broken, TemplateCall(messages=(ASK, ANSWER))]
        first, second, third = templated.render_chats(calls)
        assert first == third
        assert first.error is None
        assert second.error or "no role" in second.text

    def test_the_same_call_gives_the_same_text(self, templated: _Templated) -> None:
        call = TemplateCall(messages=(ASK, ANSWER))
        assert templated.render_chats([call]) == templated.render_chats([call])
