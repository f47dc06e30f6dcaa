"""Settings as they are typed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import ConfigError
from crucible_kitchen.overrides import parse_overrides, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3e-4", 3e-4),
        ("-0.5", -0.5),
        ("true", True),
        ("False", False),
        ("NONE", None),
        ("null", None),
        ('"7"', "7"),
        ("[1, 2]", [1, 2]),
        ('{"schema": "auto"}', {"schema": "auto"}),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("", ""),
        ("1.2.3", "1.2.3"),
        ("[broken", "[broken"),
        (" spaced text ", " spaced text "),
    ],
)
def test_a_value_is_json_where_it_is_json_and_text_otherwise(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_every_json_value_can_be_typed(value: Any) -> None:
    assert parse_value(json.dumps(value)) == value


def test_dots_make_groups() -> None:
    assert parse_overrides(["data.limit=500", "data.path=a=b", "seed=1", "a.b.c=x"]) == {
        "data": {"limit": 500, "path": "a=b"},
        "seed": 1,
        "a": {"b": {"c": "x"}},
    }
    assert parse_overrides([]) == {}


KEYS = st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=3).map(".".join)


@given(st.dictionaries(KEYS, st.integers(), max_size=6))
def test_a_set_of_keys_parses_unless_one_is_the_group_of_another(settings_: dict[str, int]) -> None:
    words = [f"{key}={value}" for key, value in settings_.items()]
    clash = any(other.startswith(f"{key}.") for key in settings_ for other in settings_)
    if clash:
        with pytest.raises(ConfigError):
            parse_overrides(words)
        return
    found = parse_overrides(words)
    for key, value in settings_.items():
        level: Any = found
        for part in key.split("."):
            level = level[part]
        assert level == value


@pytest.mark.parametrize("word", ["batch_size", "=3", ".a=3", "a.=3", "a..b=3", ""])
def test_a_word_that_is_not_key_and_value_is_named(word: str) -> None:
    with pytest.raises(ConfigError, match="is not key=value") as caught:
        parse_overrides([word])
    assert caught.value.problems[0].path == word


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.limit: is given twice"):
        parse_overrides(["data.limit=1", "data.limit=2"])


@pytest.mark.parametrize("words", [["data=x", "data.limit=2"], ["data.limit=2", "data=x"]])
def test_a_key_is_a_value_or_a_group_and_not_both(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="data"):
        parse_overrides(words)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["oops", "a=1", "a=2", "=3"])
    assert [problem.path for problem in caught.value.problems] == ["oops", "a", "=3"]
    assert "3 problems" in str(caught.value)
