"""A conversation in a template's own words, and where each message stands in them.

Nothing is taken from the template's source. A piece of a message is put in the place of another word, and what
the template then writes differently is where that piece stands; what it writes after the messages up to one,
with and without the request for an answer, is that message's prompt and end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from crucible_train.ports.chat_template import ChatTemplated, TemplateCall, TemplateText
from crucible_train.renderers.chat_template_rows import Field, Row, fields_of
from crucible_train.renderers.errors import RenderError

__all__ = ["LEFT_OUT", "ChatText", "Draft", "Place", "TemplateWriter", "common_prefix", "locate"]

LEFT_OUT = "leaves out its {}"
"""The problem of a place whose message has a piece (its kind) that makes no difference to the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A conversation before the template has seen it; special tokens' names in it are guarded.

    ``first`` is the index that errors give to the first message.
    """

    rows: tuple[Row, ...]
    tools: tuple[Row, ...]
    guard: str
    first: int = 0

    def where(self, index: int) -> str:
        """How errors name a message."""
        return f"messages[{index + self.first}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Characters [start, end) of a text that come from a message.

    ``problem`` says why they cannot be trusted to be the message, whole and as it is; None where they can.
    """

    start: int
    end: int
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatText:
    """What the template wrote for a conversation.

    ``places`` has one entry per message, None where it cannot be found; ``prompts`` the prompt before a message
    of the assistant, ``tails`` what follows the pieces of a message when it is the last.
    """

    draft: Draft
    text: str
    generated: tuple[tuple[int, int], ...] | None
    places: tuple[Place | None, ...]
    prompts: dict[int, TemplateText]
    tails: dict[int, str]

    def next_start(self, index: int, at: int) -> int:
        """Where the first message behind ``index`` begins, at or after ``at``; the end of the text if none does."""
        later = (place.start for place in self.places[index + 1 :] if place is not None)
        return min((start for start in later if start >= at), default=len(self.text))


class TemplateWriter:
    """Lets a tokenizer's template write conversations, many variations at a time."""

    def __init__(self, tokenizer: ChatTemplated, current_date: str | None) -> None:
        self._tokenizer = tokenizer
        self._current_date = current_date

    def write(self, calls: Sequence[TemplateCall]) -> list[TemplateText]:
        """What the template writes for each."""
        return self._tokenizer.render_chats(calls, current_date=self._current_date)

    def conversation(self, draft: Draft, *, prompt: bool = False, tails: Collection[int] = ()) -> ChatText:
        """The whole conversation; ``prompt`` asks for an answer after it, ``tails`` for these messages' ends.

        Raises:
            RenderError: the template refuses the conversation, or leaves a text or a call out of it.
        """
        rows, tools = draft.rows, draft.tools
        fields = [(index, field) for index, row in enumerate(rows) for field in fields_of(row)]
        asked = [index for index, row in enumerate(rows) if row["role"] == "assistant"]
        ends = sorted(tails)
        last_fields = [fields_of(rows[index])[-1] for index in ends]
        calls = [
            _call(rows, tools, prompt=prompt),
            *(_call(_with(rows, index, field.row), tools, prompt=prompt) for index, field in fields),
            *(_call(rows[:index], tools, prompt=True) for index in asked),
            *(_call(rows[: index + 1], tools) for index in ends),
            *(
                _call(_with(rows[: index + 1], index, field.row), tools)
                for index, field in zip(ends, last_fields, strict=True)
            ),
        ]
        written = iter(self.write(calls))
        whole = next(written)
        if whole.error is not None:
            raise self._refusal(draft, whole.error, prompt=prompt)
        _require_no_escape(whole.text, draft.guard)
        changed = [next(written) for _ in fields]
        prompts = {index: next(written) for index in asked}
        alone = [next(written) for _ in ends]
        alone_changed = [next(written) for _ in ends]
        pairs = zip(ends, alone, alone_changed, strict=True)
        return ChatText(
            draft=draft,
            text=whole.text,
            generated=whole.generated,
            places=tuple(_places(draft, whole.text, fields, changed)),
            prompts=prompts,
            tails={index: _tail(one, other) for index, one, other in pairs},
        )

    def _refusal(self, draft: Draft, error: str, *, prompt: bool) -> RenderError:
        """The error of a refused conversation, at the first message with which all is refused."""
        count = len(draft.rows)
        beginnings = [_call(draft.rows[: n + 1], draft.tools, prompt=prompt) for n in range(count)]
        refused = [text.error is not None for text in self.write(beginnings)]
        first = next((n for n in range(count) if all(refused[n:])), max(count - 1, 0))
        return RenderError(
            what=f"the tokenizer's chat template refuses the conversation ({error})",
            where=draft.where(first) if count else "messages",
            remedy="change the conversation to what the model's template allows, or use another renderer",
        )


def locate(text: str, changed: str, field: Field) -> Place | None:
    """Where ``field`` stands in ``text``, given the text with another word in its place; None if nowhere."""
    if text == changed:
        return None
    start = common_prefix(text, changed)
    suffix = _common_suffix(text[start:], changed[start:])
    end = len(text) - suffix
    shown, wrote = text[start:end], changed[start : len(changed) - suffix]
    exact = field.kind == "call" or (wrote.strip() == field.word and shown.strip() == field.original.strip())
    return Place(start=start, end=end, problem=None if exact else f"rewrites its {field.kind}")


def common_prefix(one: str, other: str) -> int:
    """Number of characters that both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one.startswith(other[:middle]):
            low = middle
        else:
            high = middle - 1
    return low


def _common_suffix(one: str, other: str) -> int:
    return common_prefix(one[::-1], other[::-1])


def _call(rows: Sequence[Row], tools: tuple[Row, ...], *, prompt: bool = False) -> TemplateCall:
    return TemplateCall(messages=tuple(rows), tools=tools, add_generation_prompt=prompt)


def _with(rows: Sequence[Row], index: int, row: Row) -> list[Row]:
    return [*rows[:index], row, *rows[index + 1 :]]


def _places(
    draft: Draft, text: str, fields: Sequence[tuple[int, Field]], changed: Sequence[TemplateText]
) -> Iterator[Place | None]:
    """The place of each message, from the places of its pieces.

    Raises:
        RenderError: a text or a call makes no difference to what the template writes. Reasoning may: templates
            leave it out of history.
    """
    for index in range(len(draft.rows)):
        found: list[Place] = []
        problem: str | None = None
        for (owner, field), variant in zip(fields, changed, strict=True):
            if owner != index:
                continue
            if variant.error is not None:
                problem = f"lets nobody see where its {field.kind} stands ({variant.error})"
                continue
            place = locate(text, variant.text, field)
            if place is None and field.kind != "reasoning" and field.original.strip():
                raise _left_out(draft, index, field)
            if place is None:
                problem = LEFT_OUT.format(field.kind)
                continue
            found.append(place)
            problem = problem or place.problem
        if not found:
            yield None
            continue
        yield Place(start=min(p.start for p in found), end=max(p.end for p in found), problem=problem)


def _tail(one: TemplateText, other: TemplateText) -> str:
    if one.error is not None or other.error is not None:
        return ""
    return one.text[len(one.text) - _common_suffix(one.text, other.text) :]


def _left_out(draft: Draft, index: int, field: Field) -> RenderError:
    role: Any = draft.rows[index]["role"]
    shown = {"text": "the text", "call": "a tool call", "reasoning": "the reasoning"}[field.kind]
    return RenderError(
        what=f"the tokenizer's chat template leaves out {shown} of this message of {role!r}",
        where=draft.where(index),
        remedy="take it out of the conversation, or use another renderer",
    )


def _require_no_escape(text: str, guard: str) -> None:
    if f"\\u{ord(guard):04x}" in text.lower():
        raise RenderError(
            what="the template escapes a special token's name in a message, so that it cannot be told from its own",
            where="renderer 'chat_template'",
            remedy="take special tokens' names out of the messages, or use another renderer",
        )
