"""Settings as they are typed: ``key=value`` words with dotted keys."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from crucible_ir import ConfigError, Problem

__all__ = ["parse_overrides", "parse_value"]

_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}


def parse_value(text: str) -> Any:
    """JSON where it is JSON (numbers, lists, quoted strings), true/false/none in any case, else the text."""
    word = text.strip()
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    try:
        return json.loads(word)
    except ValueError:
        return text


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """A nested dict from words such as ``data.limit=500``.

    Raises:
        ConfigError: words without ``=``, empty keys, keys given twice, or a key that is both a value and a
            group; all at once.
    """
    settings: dict[str, Any] = {}
    problems = []
    for word in words:
        key, equals, text = word.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            problems.append(
                Problem(
                    path=word, message="is not key=value", remedy="write, for example, learning_rate=3e-4"
                )
            )
            continue
        trouble = _put(settings, parts, parse_value(text))
        if trouble:
            problems.append(Problem(path=key, message=trouble, remedy="give it once"))
    if problems:
        raise ConfigError(problems=problems)
    return settings


def _put(settings: dict[str, Any], parts: list[str], value: Any) -> str | None:
    level = settings
    for part in parts[:-1]:
        level = level.setdefault(part, {})
        if not isinstance(level, dict):
            return f"{part!r} is given a value and settings of its own"
    if parts[-1] in level:
        return "is given twice"
    level[parts[-1]] = value
    return None
