"""Which characters of a template's text a model writes, message by message; refused where that is not certain."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_train.renderers.chat_template_encoding import TemplateEncoder
from crucible_train.renderers.chat_template_text import ChatText, Place, common_prefix
from crucible_train.renderers.errors import RenderError

__all__ = ["Span", "answer_spans", "other_span"]

Span = tuple[int, int]
"""First character, and one past the last."""


def answer_spans(chat: ChatText, index: int, stops: Sequence[str]) -> list[Span]:
    """What the model writes of a message of the assistant: from the end of its prompt through the end mark.

    Where the template marks what is generated, its marks within that stretch count instead.

    Raises:
        RenderError: the prompt does not begin the conversation, the message is not there as it was given, or
            what ends it does not end sampling.
    """
    prompt = chat.prompts[index]
    if prompt.error is not None:
        raise _untrainable(chat, index, f"writes no prompt before it ({prompt.error})")
    if not chat.text.startswith(prompt.text):
        differs = _difference(chat, prompt.text)
        raise _untrainable(chat, index, f"prompts for it otherwise than the conversation goes on ({differs})")
    place = _trusted(chat, index)
    start = len(prompt.text)
    if place.start < start:
        raise _untrainable(chat, index, "puts a part of it into the prompt")
    end = _end_of_answer(chat, index, place, stops)
    early = [stop for stop in stops if chat.text.find(stop, start, place.end) >= 0]
    if early:
        raise _untrainable(chat, index, f"has the end mark {early[0]!r} in the middle of it")
    inside = [n for n, other in enumerate(chat.places) if n != index and other and start <= other.start < end]
    if inside:
        raise _untrainable(chat, index, f"puts {chat.draft.where(inside[0])} into it")
    if chat.generated is None:
        return [(start, end)]
    marked = [(max(a, start), min(b, end)) for a, b in chat.generated if a < end and b > start]
    if not marked:
        raise _untrainable(chat, index, "does not mark it as generated")
    return marked


def _end_of_answer(chat: ChatText, index: int, place: Place, stops: Sequence[str]) -> int:
    ends = [at + len(stop) for stop in stops if (at := chat.text.find(stop, place.end)) >= 0]
    limit = chat.next_start(index, place.end)
    if not ends or min(ends) > limit:
        after = chat.text[place.end : limit][:40]
        raise _untrainable(
            chat, index, f"ends it with {after!r}, which does not end sampling ({', '.join(stops)})"
        )
    return min(ends)


def other_span(chat: ChatText, index: int, encoder: TemplateEncoder) -> Span:
    """A message of somebody else: its pieces, and what closes it up to and with the first end mark.

    Raises:
        RenderError: the message is not there as it was given.
    """
    place = _trusted(chat, index)
    behind = chat.text[place.end : chat.next_start(index, place.end)]
    closing = behind[: common_prefix(behind, chat.tails.get(index, ""))]
    mark = encoder.first_mark(closing)
    return place.start, place.end + (len(closing.rstrip()) if mark is None else mark[1])


def _trusted(chat: ChatText, index: int) -> Place:
    place = chat.places[index]
    if place is None:
        raise _untrainable(chat, index, "writes nothing of it")
    if place.problem is not None:
        raise _untrainable(chat, index, place.problem)
    return place


def _difference(chat: ChatText, prompt: str) -> str:
    at = common_prefix(chat.text, prompt)
    return f"{prompt[at : at + 40]!r} in the prompt, then {chat.text[at : at + 40]!r}"


def _untrainable(chat: ChatText, index: int, reason: str) -> RenderError:
    if index == len(chat.places) - 1:
        remedy = "change the message to what the template writes as it is, or use another renderer"
    else:
        remedy = "train on the last message or turn alone (train_on_what), or use another renderer"
    return RenderError(
        what=f"the tokenizer's chat template {reason}, so that this message cannot be trained on in this conversation",
        where=chat.draft.where(index),
        remedy=remedy,
    )
