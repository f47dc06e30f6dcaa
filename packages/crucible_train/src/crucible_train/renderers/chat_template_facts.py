"""What a chat template does, found out by letting it write a few conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crucible_ir.errors import ConfigError
from crucible_train.ports.chat_template import TemplateCall
from crucible_train.renderers.chat_template_encoding import TemplateEncoder
from crucible_train.renderers.chat_template_rows import Row, fields_of, row_of
from crucible_train.renderers.chat_template_text import TemplateWriter, locate
from crucible_train.renderers.message import Message, TextPart, ThinkingPart, ToolCall

__all__ = ["CallFrame", "TemplateFacts", "find_facts"]

_ARGUMENTS, _OTHER_ARGUMENTS = '{"a": "2"}', '{"b": "3"}'
_ASK = Message(role="user", content="What is 2 + 2?")
_ANSWER = Message(role="assistant", content="It is 4.")
_AGAIN = Message(role="user", content="Times 3?")
_THINKING = Message(role="assistant", content=(ThinkingPart("Two and two."), TextPart("It is 4.")))
_INLINE = Message(role="assistant", content="<think>\nTwo and two.\n</think>\n\nIt is 4.")
_FIRST = ToolCall(name="add_up", arguments=_ARGUMENTS, id="call00000")
_SECOND = ToolCall(name="take_off", arguments=_OTHER_ARGUMENTS, id="call00001")
_CALLING = Message(role="assistant", content="", tool_calls=(_FIRST,))
_TWICE = Message(role="assistant", content="", tool_calls=(_FIRST, _SECOND))
_RESULT = Message(role="tool", content="4", name=_FIRST.name, tool_call_id=_FIRST.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFrame:
    """The text around tool calls: before a name, between it and its arguments, between two calls, at the end.

    ``between`` is None where the template writes one call alone.
    """

    opening: str
    middle: str
    between: str | None
    closing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFacts:
    """What a template does.

    ``stops`` end an answer. ``prompt`` is what the plainest conversation gives. ``plain`` is what an answer
    without reasoning opens with, ``gap`` what stands between its text and the end mark, ``before`` and
    ``behind`` what stands around reasoning (None: it has none).
    """

    stops: tuple[str, ...]
    prompt: str
    extends: bool
    arguments_as_text: bool
    plain: str
    gap: str
    before: str | None
    behind: str | None
    calls: CallFrame | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """A conversation that ends in an answer: its prompt, its text, where the answer's pieces are."""

    messages: tuple[Message, ...]
    prompt: str
    text: str
    places: tuple[tuple[int, int], ...]

    @property
    def follows(self) -> bool:
        """Whether the text goes on from the prompt."""
        return self.text.startswith(self.prompt) and self.places[0][0] >= len(self.prompt)

    def end(self, stops: Sequence[str]) -> int:
        """One past the end mark, or 0."""
        found = (self.text.find(stop, self.places[-1][1]) for stop in stops)
        return min((at + len(stop) for at, stop in zip(found, stops, strict=True) if at >= 0), default=0)


def find_facts(writer: TemplateWriter, encoder: TemplateEncoder) -> TemplateFacts:
    """Let the template write the built-in conversations.

    Raises:
        ConfigError: it refuses the plainest one, or never says where an answer ends.
    """
    probe = _Probe(writer)
    plain = probe.turn(_ASK, _ANSWER)
    if isinstance(plain, str):
        raise ConfigError(
            what=f"the tokenizer's chat template cannot write a question and an answer ({plain})",
            where="renderer 'chat_template'",
            remedy="use another renderer",
        )
    calling = probe.turn(_ASK, _CALLING)
    if isinstance(calling, str):
        as_text = _Probe(writer, as_text=True)
        again = as_text.turn(_ASK, _CALLING)
        probe, calling = (probe, calling) if isinstance(again, str) else (as_text, again)
    stops = _stops(plain, calling, encoder)
    opening = plain.text[len(plain.prompt) : plain.places[0][0]] if plain.follows else ""
    before, behind = _around_reasoning(probe.turn(_ASK, _THINKING), plain.prompt)
    return TemplateFacts(
        stops=stops,
        prompt=plain.prompt,
        extends=plain.follows and probe.extends(stops),
        arguments_as_text=probe.as_text,
        plain=opening,
        gap=plain.text[plain.places[-1][1] :].partition(stops[0])[0],
        before=before,
        behind=behind,
        calls=_call_frame(calling, probe.turn(_ASK, _TWICE), stops, opening),
    )


class _Probe:
    """Lets the template write conversations of ours."""

    def __init__(self, writer: TemplateWriter, *, as_text: bool = False) -> None:
        self._writer = writer
        self.as_text = as_text

    def turn(self, *messages: Message) -> _Turn | str:
        """A conversation that ends in an answer, or why the template has none such."""
        rows = self._rows(messages)
        fields = fields_of(rows[-1])
        whole, prompt, *changed = self._writer.write(
            [
                TemplateCall(messages=rows),
                TemplateCall(messages=rows[:-1], add_generation_prompt=True),
                *(TemplateCall(messages=(*rows[:-1], field.row)) for field in fields),
            ]
        )
        refused = [text.error for text in (whole, prompt, *changed) if text.error is not None]
        if refused:
            return refused[0]
        places: list[tuple[int, int]] = []
        for field, variant in zip(fields, changed, strict=True):
            place = locate(whole.text, variant.text, field)
            if place is None or place.problem is not None:
                return f"it leaves out or rewrites the {field.kind}"
            places.append((place.start, place.end))
        return _Turn(messages=messages, prompt=prompt.text, text=whole.text, places=tuple(places))

    def extends(self, stops: Sequence[str]) -> bool:
        """Whether every kind of answer, with its prompt and end mark, begins the prompt that follows it."""
        kinds = [
            (self.turn(_ASK, _ANSWER), _AGAIN),
            (self.turn(_ASK, _THINKING), _AGAIN),
            (self.turn(_ASK, _INLINE), _AGAIN),
            (self.turn(_ASK, _CALLING), _RESULT),
            (self.turn(_ASK, _CALLING, _RESULT, _ANSWER), _AGAIN),
        ]
        return all(self._goes_on(turn, after, stops) for turn, after in kinds if isinstance(turn, _Turn))

    def _goes_on(self, turn: _Turn, after: Message, stops: Sequence[str]) -> bool:
        rows = self._rows((*turn.messages, after))
        later = self._writer.write([TemplateCall(messages=rows, add_generation_prompt=True)])[0]
        end = turn.end(stops)
        return end > 0 and later.error is None and later.text.startswith(turn.text[:end])

    def _rows(self, messages: Sequence[Message]) -> tuple[Row, ...]:
        rows = enumerate(messages)
        return tuple(row_of(one, index=i, arguments_as_text=self.as_text) for i, one in rows)


def _stops(plain: _Turn, calling: _Turn | str, encoder: TemplateEncoder) -> tuple[str, ...]:
    """The end mark of an answer, and that of a tool call where it is another one."""
    tail = plain.text[plain.places[-1][1] :]
    mark = encoder.first_mark(tail)
    stop = tail.strip() if mark is None else tail[slice(*mark)]
    if not stop:
        raise ConfigError(
            what="the tokenizer's chat template writes no end mark after an answer; a model would not learn to stop",
            where="renderer 'chat_template'",
            remedy="use a renderer that ends its answers, such as 'role_colon'",
        )
    if isinstance(calling, str) or calling.end((stop,)):
        return (stop,)
    tail = calling.text[calling.places[-1][1] :]
    marks: list[tuple[int, int]] = []
    while (found := encoder.first_mark(tail, marks[-1][1] if marks else 0)) is not None:
        marks.append(found)
    return (stop, tail[slice(*marks[-1])]) if marks else (stop,)


def _around_reasoning(turn: _Turn | str, prompt: str) -> tuple[str | None, str | None]:
    if prompt.rstrip().endswith("<think>"):
        return "", "\n</think>\n\n"
    if isinstance(turn, str) or not turn.follows:
        return None, None
    (start, end), (text_start, _) = turn.places
    return turn.text[len(turn.prompt) : start], turn.text[end:text_start]


def _call_frame(
    calling: _Turn | str, twice: _Turn | str, stops: Sequence[str], opening: str
) -> CallFrame | None:
    if isinstance(calling, str) or not calling.follows:
        return None
    before, name, rest = _answer(calling, stops).partition(_FIRST.name)
    middle, arguments, closing = rest.partition(_ARGUMENTS)
    if not name or not arguments:
        return None
    between = None
    if not isinstance(twice, str):
        between = _answer(twice, stops).partition(_ARGUMENTS)[2].partition(_SECOND.name)[0]
    return CallFrame(
        opening=before.removeprefix(opening), middle=middle, between=between or None, closing=closing
    )


def _answer(turn: _Turn, stops: Sequence[str]) -> str:
    """What the model writes, without the end mark."""
    text = turn.text[len(turn.prompt) : turn.end(stops)]
    return next((text.removesuffix(stop) for stop in stops if text.endswith(stop)), text)
