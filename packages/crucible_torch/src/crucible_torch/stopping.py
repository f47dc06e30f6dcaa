"""When a sampled sequence is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crucible_ir.errors import ConfigError
from crucible_train.types import StopCondition

__all__ = ["StopRule", "stop_rule"]

_WINDOW = 8
"""Tokens beyond the longest stop string's bytes that are decoded to look for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """Ends at a token id, or as soon as the text of the tokens holds one of the strings."""

    ids: frozenset[int]
    strings: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = None

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether the sequence is over with its last token; stop tokens and strings stay part of it."""
        if tokens[-1] in self.ids:
            return True
        if not self.strings or self.decode is None:
            return False
        width = max(len(string.encode()) for string in self.strings) + _WINDOW
        text = self.decode(tokens[-width:])
        return any(string in text for string in self.strings)


def stop_rule(
    stop: StopCondition, *, eos_ids: frozenset[int], decoder: Callable[[], Callable[[Sequence[int]], str]]
) -> StopRule:
    """The rule of a stop condition.

    None stops at the model's end tokens; [] never stops early; strings and ids stop there and at the end
    tokens too. ``decoder`` is asked for only when there are strings.

    Raises:
        ConfigError: an empty stop string, or strings and ids mixed.
    """
    if stop is None:
        return StopRule(ids=eos_ids)
    items = [stop] if isinstance(stop, str) else list(stop)
    if not items:
        return StopRule(ids=frozenset())
    strings = tuple(item for item in items if isinstance(item, str))
    ids = frozenset(item for item in items if isinstance(item, int))
    if "" in strings or (strings and ids):
        raise ConfigError(
            what=f"stop = {stop!r}",
            where="SamplingParams.stop",
            remedy="give non-empty strings, or token ids",
        )
    return StopRule(ids=ids | eos_ids, strings=strings, decode=decoder() if strings else None)
