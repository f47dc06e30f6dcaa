"""Digests: hand-worked values, independence of format, key order and process, and the fast way's equality."""

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_datasets import (
    ContentDigest,
    LocalDatasetStore,
    canonical_row,
    content_digest,
    example_id,
    order_digest,
    transform_digest,
)
from crucible_ir import DataError, DatasetRef, canonical_json, digest_of


def sha256(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_the_content_digest_is_that_of_a_header_and_canonical_lines() -> None:
    rows = [{"b": 1.0, "a": "é"}, {"a": [None, True]}]
    assert content_digest(rows) == sha256('crucible.rows.v1\n{"a":"é","b":1}\n{"a":[null,true]}\n')
    assert content_digest([]) == sha256("crucible.rows.v1\n")


def test_the_order_digest_is_that_of_a_header_and_little_endian_positions() -> None:
    expected = hashlib.sha256(b"crucible.order.v1\n" + b"\x02" + b"\0" * 7 + b"\0" * 8).hexdigest()
    assert order_digest([2, 0]) == order_digest(np.array([2, 0], dtype=np.int64)) == "sha256:" + expected
    assert order_digest([0, 2]) != order_digest([2, 0])


def test_the_transform_digest_is_that_of_the_description() -> None:
    described = {"schema": "messages"}
    assert transform_digest(described) == digest_of({"transform": "crucible.transform.v1", "is": described})


def test_an_example_has_the_digest_of_its_content() -> None:
    assert example_id({"b": 1, "a": 2}) == sha256('{"a":2,"b":1}') == example_id({"a": 2, "b": 1})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(row=st.dictionaries(st.text(max_size=4), values, max_size=5))
def test_the_fast_way_writes_the_canonical_form(row: dict[str, Any]) -> None:
    assert canonical_row(row) == canonical_json(row)


@pytest.mark.parametrize(
    "row",
    [
        {"\ufb33": 1, "\U0001f600": 2},
        {"a": {"\uffff": 1, "\U00010000": 2}},
        {"a": (1, 2)},
        {"a": 1e21, "b": -0.0, "c": 5e-324},
        {"a": {1: "x"}},
        {"\u2028": "\u2029\x7f\x1f/"},
    ],
)
def test_keys_and_values_that_the_fast_way_would_write_otherwise_go_the_slow_way(row: dict[str, Any]) -> None:
    assert canonical_row(row) == canonical_json(row)


@given(rows=st.lists(st.dictionaries(st.sampled_from("abc"), values), max_size=5), cut=st.integers(0, 5))
def test_one_changed_row_changes_the_digest(rows: list[dict[str, Any]], cut: int) -> None:
    changed = [*rows[:cut], {"d": 0}, *rows[cut:]]
    assert content_digest(changed) != content_digest(rows)


def test_rows_are_digested_in_chunks_and_the_value_may_be_read_between() -> None:
    rows = [{"n": n} for n in range(1500)]
    digest = ContentDigest()
    for row in rows:
        digest.add(row)
        if row["n"] == 700:
            assert digest.value == content_digest(rows[:701])
    assert digest.value == content_digest(iter(rows))
    assert digest.rows == 1500


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1, "a"} - {1} | {b"x"}, object()])
def test_values_without_a_canonical_form_are_refused(value: Any) -> None:
    with pytest.raises(DataError, match="has no canonical form"):
        content_digest([{"a": value}])


def test_text_that_is_not_unicode_is_refused() -> None:
    digest = ContentDigest()
    digest.add({"a": 1})
    assert digest.value
    digest.add({"a": "\ud800"})
    digest.add({"a": 1})
    with pytest.raises(DataError, match="rows 2 to 3: half of a surrogate pair"):
        _ = digest.value


def test_the_digest_does_not_depend_on_how_the_rows_are_written(tmp_path: Path) -> None:
    rows = [{"text": f"é{n}", "n": n, "x": n / 4} for n in range(7)]
    plain = "".join(json.dumps(row) + "\n" for row in rows)
    other = "".join(json.dumps(dict(reversed(row.items())), ensure_ascii=False) + "\r\n\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(plain)
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + other.encode())
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(plain.encode()))
    (tmp_path / "d.json").write_text(json.dumps(rows, indent=3))
    folder = tmp_path / "parts"
    folder.mkdir()
    lines = plain.splitlines(keepends=True)
    (folder / "train-00000-of-00002.jsonl").write_text("".join(lines[:3]))
    (folder / "train-00001-of-00002.jsonl").write_text("".join(lines[3:]))
    names = ("a.jsonl", "b.jsonl", "c.jsonl.gz", "d.json", "parts")
    found = {LocalDatasetStore().load(DatasetRef(id=str(tmp_path / name))).ref.digest for name in names}
    assert found == {content_digest(rows)}


def test_cells_of_a_csv_file_are_text_and_so_another_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n\n7\n")
    found = LocalDatasetStore().load(DatasetRef(id=str(tmp_path / "a.csv"))).ref.digest
    assert found == content_digest([{"n": "7"}]) != content_digest([{"n": 7}])


def test_another_process_with_another_hash_seed_finds_the_same_digest() -> None:
    code = 'from crucible_datasets import content_digest; print(content_digest([{"b": {"d": 1, "c": 2}, "a": 0.5}]))'
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {content_digest([{"a": 0.5, "b": {"c": 2, "d": 1}}])}


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_has_its_canonical_form(value: float) -> None:
    assert canonical_row({"x": value}) == canonical_json({"x": value})


@pytest.mark.parametrize(
    "value", [1e-4, 9.999e-5, 0.1 + 0.2, 1e15, 999999999999999.9, 1e15 + 0.5, -2.5, 3.0, 1e22]
)
def test_floats_at_the_edges_of_the_fast_way_have_their_canonical_form(value: float) -> None:
    assert canonical_row({"x": value, "y": [-value]}) == canonical_json({"x": value, "y": [-value]})
