"""A tokenizer whose chat template is a Python function, for tests: fits ``crucible_train.ports.ChatTemplated``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from crucible_testing.tokenizers import FileTokenizer
from crucible_train.ports import TemplateCall, TemplateText

__all__ = ["TemplatedTokenizer", "Write", "chatml"]

Write = Callable[[Sequence[Mapping[str, Any]], bool], str]
"""Takes messages and whether a prompt for an answer is to follow; raises ValueError to refuse them."""


def chatml(messages: Sequence[Mapping[str, Any]], prompt: bool) -> str:
    """The plainest format: every message between ``<|im_start|>role`` and ``<|im_end|>``."""
    text = "".join(f"<|im_start|>{row['role']}\n{_body(row)}<|im_end|>\n" for row in messages)
    return text + ("<|im_start|>assistant\n" if prompt else "")


def _body(row: Mapping[str, Any]) -> str:
    thinking = row.get("reasoning_content")
    return row["content"] if thinking is None else f"<think>\n{thinking}\n</think>\n\n{row['content']}"


class TemplatedTokenizer(FileTokenizer):
    """The vocabulary of a folder with ``write`` as its template; its source is that of the function."""

    def __init__(self, folder: Path, write: Write = chatml) -> None:
        super().__init__(folder)
        self._write = write
        self._source = inspect.getsource(write)

    @cached_property
    def all_special_ids(self) -> Sequence[int]:
        """Every id that the vocabulary flags as special, whatever the config names."""
        added = self._marked.get_added_tokens_decoder()
        return sorted(index for index, token in added.items() if token.special)

    @property
    def chat_template(self) -> str | None:
        """The function's source."""
        return self._source

    def render_chats(
        self, calls: Sequence[TemplateCall], *, current_date: str | None = None
    ) -> list[TemplateText]:
        """What the function writes for each call."""
        return [self._text(call) for call in calls]

    def _text(self, call: TemplateCall) -> TemplateText:
        try:
            return TemplateText(text=self._write(call.messages, call.add_generation_prompt))
        except (ValueError, LookupError) as error:
            return TemplateText(error=f"{type(error).__name__}: {error}")
