"""What of a row is asked: the conversation before the turn that is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_ir import DataError

__all__ = ["prompt_of"]


def prompt_of(row: Mapping[str, Any], *, where: str) -> list[dict[str, Any]]:
    """The conversation without the assistant turn it ends with, or the row's problem as a user's turn.

    Raises:
        DataError: the row holds neither, or there is no turn to answer; names ``where``.
    """
    messages = row.get("messages")
    if messages is None:
        question = row.get("problem", row.get("question"))
        if not isinstance(question, str) or not question.strip():
            raise DataError(
                what=f"the row has neither messages nor a problem; it has {', '.join(sorted(row)) or 'nothing'}",
                where=where,
                remedy='say which columns carry it, such as data.mapping={"schema":"prompt_completion"}',
            )
        return [{"role": "user", "content": question}]
    asked = [dict(message) for message in messages]
    if asked and asked[-1].get("role") == "assistant":
        asked.pop()
    if not asked:
        raise DataError(what="no turn to answer", where=where, remedy="give a conversation with a user turn")
    return asked
