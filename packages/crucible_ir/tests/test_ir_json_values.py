"""Free-form values made plain."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from crucible_ir import Event, StageDef
from crucible_ir.json_values import plain_json


class Colour(StrEnum):
    RED = "red"


def test_enums_dates_paths_contracts_and_tuples_become_json() -> None:
    value = {
        Colour.RED: Colour.RED,
        3: (1, 2.5, None, True),
        "at": datetime(2026, 1, 6, tzinfo=UTC),
        "path": PurePosixPath("a/b"),
        "stage": StageDef(name="a"),
    }
    assert plain_json(value) == {
        "red": "red",
        "3": [1, 2.5, None, True],
        "at": "2026-01-06T00:00:00Z",
        "path": "a/b",
        "stage": StageDef(name="a").model_dump(mode="json"),
    }
    assert type(plain_json(Colour.RED)) is str


@pytest.mark.parametrize("value", [object(), b"x", {1, 2}, datetime(2026, 1, 6), {1.5: 1}, {True: 1}, 1j])
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises(PydanticCustomError):
        plain_json(value)


def test_numbers_that_are_not_finite_pass_only_where_things_were_measured() -> None:
    with pytest.raises(PydanticCustomError, match="finite"):
        plain_json([float("nan")])
    assert repr(plain_json([float("nan")], finite=False)) == "[nan]"
    event = Event(
        seq=1, run_id="r", type="log", at=datetime(2026, 1, 6, tzinfo=UTC), data={"x": float("inf")}
    )
    assert event.data == {"x": float("inf")}


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_plain_json_stays_as_it_is(value: object) -> None:
    assert plain_json(value) == value
