"""From a template's text to token ids: the template's marks are special, what looks like one in a message is text."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.renderers.errors import RenderError

__all__ = ["TemplateEncoder"]

T = TypeVar("T")

_FIRST_GUARD, _LAST_GUARD = 0xE000, 0xF8FF
"""Characters for private use: no text means anything by them, and no template looks for them."""

_NO_GUARD = "\0\0"


class TemplateEncoder:
    """Encodes what a template wrote, with cuts where sampling begins.

    Before a template sees a message, every special token's name in it gets a *guard*, a character that stands
    nowhere in the conversation; names without a guard in the template's text are therefore the template's
    own. Methods that take ``guard`` expect text in which guards still stand.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _names(self) -> re.Pattern[str]:
        names = {self._tokenizer.decode([index]) for index in self._tokenizer.all_special_ids} - {""}
        return re.compile(
            "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) or r"(?!)"
        )

    @cached_property
    def _anchor(self) -> str:
        """A special token to encode a text behind, so that it is not taken for the beginning of one."""
        end = self._tokenizer.eos_token_id
        ids = ([] if end is None else [end]) + list(self._tokenizer.all_special_ids)
        return self._tokenizer.decode(ids[:1])

    def guard_for(self, value: Any) -> str:
        """A character that ``value`` (of JSON) does not hold."""
        held = set(json.dumps(value, ensure_ascii=False))
        return next(chr(code) for code in range(_FIRST_GUARD, _LAST_GUARD + 1) if chr(code) not in held)

    def guarded(self, value: T, guard: str) -> T:
        """``value`` (of JSON) with a guard in every special token's name."""
        changed: Any = value
        if isinstance(value, str):
            changed = self._names.sub(lambda found: _split(found[0], guard), value)
        elif isinstance(value, dict):
            changed = {self.guarded(k, guard): self.guarded(v, guard) for k, v in value.items()}
        elif isinstance(value, list | tuple):
            changed = type(value)(self.guarded(item, guard) for item in value)
        return changed  # type: ignore[no-any-return]

    def first_mark(self, text: str, start: int = 0) -> tuple[int, int] | None:
        """Where the first special token of the template's own stands at or after ``start``."""
        found = self._names.search(text, start)
        return None if found is None else found.span()

    def encode(self, text: str, guard: str, cuts: Sequence[int] = ()) -> list[list[int]]:
        """Ids of the stretches between ``cuts`` (ascending positions within ``text``).

        Joined they are the ids of the whole text, unless a token would run over a cut: there the text is
        parted, since a model that goes on from the cut cannot choose that token.

        Raises:
            RenderError: this vocabulary cannot spell a text that is parted there.
        """
        whole = self._ids(text, guard)
        edges = [0, *cuts, len(text)]
        parts = [self._from(text, start, end, guard) for start, end in pairwise(edges)]
        if [token for part in parts for token in part] == whole:
            return parts
        parts = list(self._parted(text, guard, cuts))
        if self._tokenizer.decode([t for part in parts for t in part]) != self._tokenizer.decode(whole):
            raise RenderError(
                what="a token runs from the prompt into the answer, and this vocabulary cannot part the text there",
                where="renderer 'chat_template'",
                remedy="begin the answers with a letter, or use another renderer",
            )
        return parts

    def continuation(self, text: str) -> list[int]:
        """Ids of plain text that goes on behind other text."""
        return self._plain(text) if self._names.search(text) else self._after(text, _NO_GUARD)

    def _parted(self, text: str, guard: str, cuts: Sequence[int]) -> Iterator[list[int]]:
        """The stretches, each as the beginning of the encoding that it shares with what follows, where it can be."""
        base, done, last = 0, 0, 0
        ids = self._ids(text, guard)
        for cut in cuts:
            head = self._from(text, base, cut, guard)
            if head[:done] != ids[:done]:
                base, done, ids = last, 0, self._from(text, last, len(text), guard)
                head = self._from(text, last, cut, guard)
            yield head[done:]
            done, last = len(head), cut
            if ids[:done] != head:
                base, done, ids = cut, 0, self._from(text, cut, len(text), guard)
        yield ids[done:]

    def _from(self, text: str, start: int, end: int, guard: str) -> list[int]:
        return self._after(text[start:end], guard) if start else self._ids(text[:end], guard)

    def _ids(self, text: str, guard: str) -> list[int]:
        if guard not in text:
            return self._tokenizer.encode(text, allow_special=True)
        ids: list[int] = []
        position = 0
        for found in self._names.finditer(text):
            ids += self._stretch(text[position : found.start()], guard)
            ids += self._tokenizer.encode(found[0], allow_special=True)
            position = found.end()
        ids += self._stretch(text[position:], guard)
        spelled, meant = self._tokenizer.decode(ids), text.replace(guard, "")
        if spelled != meant and unicodedata.normalize("NFC", spelled) != unicodedata.normalize("NFC", meant):
            raise _no_literal(text, guard)
        return ids

    def _stretch(self, text: str, guard: str) -> list[int]:
        return self._plain(text.replace(guard, "")) if guard in text else self._after(text, guard)

    def _plain(self, text: str) -> list[int]:
        """Text behind other text in which no special token is special."""
        ids = self._tokenizer.encode(text)
        harmless = self._names.sub("", text)
        if self._tokenizer.encode(harmless) != self._after(harmless, _NO_GUARD):
            raise _no_literal(text, "")
        return ids

    def _after(self, text: str, guard: str) -> list[int]:
        """Ids of text that stands behind other text: some vocabularies put a space before the first word."""
        if not text:
            return []
        if guard in text or not self._anchor:
            return self._ids(text, guard)
        anchor = self._tokenizer.encode(self._anchor, allow_special=True)
        return self._tokenizer.encode(self._anchor + text, allow_special=True)[len(anchor) :]


def _split(name: str, guard: str) -> str:
    if len(name) < 2:
        raise _no_literal(name, guard)
    return name[0] + guard + name[1:]


def _no_literal(text: str, guard: str) -> RenderError:
    shown = text.replace(guard, "") if guard else text
    return RenderError(
        what=f"a special token's name in a message cannot be spelled as text here: {shown[:80]!r}",
        where="renderer 'chat_template'",
        remedy="take it out of the message, or use another renderer",
    )
