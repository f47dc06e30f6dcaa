"""Canonical JSON and digests."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum, IntEnum, StrEnum
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import DataError, Event, StageDef, canonical_json, digest_bytes, digest_of

# RFC 8785, appendix B: IEEE-754 bits and the ECMAScript text of the number.
RFC_NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-(2.0**53), 2.0**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(("bits", "text"), RFC_NUMBERS)
def test_a_float_is_written_as_rfc_8785_writes_it(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-7, "1e-7"),
        (1e-6, "0.000001"),
        (1.5e300, "1.5e+300"),
        (123e-20, "1.23e-18"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (0.1 + 0.2, "0.30000000000000004"),
        (-1.5, "-1.5"),
        (100.0, "100"),
        (4.5, "4.5"),
        (2e-3, "0.002"),
    ],
)
def test_the_exponent_form_starts_at_1e21_and_below_1e_minus_6(value: float, text: str) -> None:
    assert canonical_json(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_written_float_reads_back_as_the_same_float(value: float) -> None:
    assert float(canonical_json(value)) == value


@given(JSON)
def test_canonical_json_is_json_of_the_same_value_and_a_fixed_point(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_insertion_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


def test_the_example_of_rfc_8785_gives_the_text_of_the_rfc() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical_json(value) == expected


def test_keys_stand_in_the_order_of_their_utf_16_code_units() -> None:
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    written = list(json.loads(canonical_json(dict.fromkeys(keys, 0))))
    assert written == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_an_integral_float_equals_the_integer_and_minus_zero_is_zero() -> None:
    assert canonical_json(1.0) == canonical_json(1) == "1"
    assert canonical_json(-0.0) == canonical_json(0) == "0"
    assert canonical_json(2.0**53) == canonical_json(2**53)


def test_an_integer_beyond_2_to_the_53_is_exact() -> None:
    assert canonical_json(2**64 + 1) == "18446744073709551617"


def test_a_truth_value_is_not_a_number() -> None:
    assert canonical_json([True, 1, False, 0]) == "[true,1,false,0]"


def test_dates_of_the_same_instant_are_the_same_text() -> None:
    utc = datetime(2026, 1, 6, 10, 15, tzinfo=UTC)
    there = utc.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert canonical_json(utc) == canonical_json(there) == '"2026-01-06T10:15:00Z"'
    assert Event(seq=1, run_id="r", type="log", at=utc).content_digest == (
        Event(seq=1, run_id="r", type="log", at=there).content_digest
    )


def test_enums_paths_tuples_sets_and_contracts_have_a_canonical_form() -> None:
    class Colour(StrEnum):
        RED = "red"

    class Level(IntEnum):
        LOW = 1

    class Mixed(Enum):
        PAIR = (1, 2)

    value = {
        "b": PurePosixPath("a/b"),
        "a": (Colour.RED, Level.LOW, Mixed.PAIR),
        Colour.RED: {3, 1, 2},
        7: frozenset(),
    }
    assert canonical_json(value) == '{"7":[],"a":["red",1,[1,2]],"b":"a/b","red":[1,2,3]}'
    assert json.loads(canonical_json(StageDef(name="x")))["retry"] == {
        "attempts": 1,
        "factor": 2,
        "wait_s": 0.5,
    }


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "nan has no canonical form"),
        ([math.inf], "inf has no canonical form"),
        ({"a": -math.inf}, "-inf has no canonical form"),
        ("a\ud800b", "lone surrogate at position 1"),
        ({"\udfff": 1}, "lone surrogate"),
        (datetime(2026, 1, 1), "has no offset"),
        (b"bytes", "a bytes has no canonical form"),
        (object(), "a object has no canonical form"),
        ({1.5: 1}, "a float cannot be a key"),
        ({True: 1}, "a bool cannot be a key"),
        ({None: 1}, "a NoneType cannot be a key"),
        ({1: "a", "1": "b"}, "the key '1' stands twice"),
        ([10**5000], "too long to write"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_a_reason(value: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        canonical_json(value)


def test_a_digest_is_sha256_of_the_utf_8_text() -> None:
    assert digest_bytes(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest_of({"ö": 1}) == digest_bytes('{"ö":1}'.encode())


def test_a_digest_is_the_same_in_processes_with_other_hash_seeds() -> None:
    code = (
        "from crucible_ir import digest_of, Experiment, StageDef\n"
        "s = StageDef(name='s', options={'b': 1, 'a': 2.5})\n"
        "e = Experiment(id='x', pipeline=(s,), settings={'z': 1, 'k': None})\n"
        "print(digest_of({'tags': {'x', 'y', 'zz', 'w'}, 'b': frozenset('hello')}), e.content_digest, e.config_digest)"
    )
    outputs = set()
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert outputs.pop().count("sha256:") == 3
