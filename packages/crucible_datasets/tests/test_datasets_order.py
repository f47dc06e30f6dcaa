"""Order and splits: numpy's permutation, the recorded orders of datasets 5.2, and properties."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_datasets import (
    LocalDatasetStore,
    MemoryDataset,
    buffer_shuffle,
    permutation,
    split_positions,
    split_rows,
    split_snapshot,
)
from crucible_ir import ConfigError, DatasetRef, DatasetSnapshot

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden/shuffle.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["permutations"], ids=lambda case: f"n{case['n']}-seed{case['seed']}")
def test_the_order_is_the_recorded_one(case: dict[str, Any]) -> None:
    assert permutation(case["n"], case["seed"]).tolist() == case["perm"]


@given(count=st.integers(0, 500), seed=st.integers(0, 2**64))
def test_the_order_is_numpys_permutation(count: int, seed: int) -> None:
    order = permutation(count, seed)
    assert order.dtype == np.int64
    assert order.tolist() == np.random.default_rng(seed).permutation(count).tolist()


def test_no_seed_keeps_the_order() -> None:
    assert permutation(5, None).tolist() == [0, 1, 2, 3, 4]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="shuffle_seed: -1 is negative"):
        permutation(5, -1)


@pytest.mark.parametrize(
    "case", GOLDEN["streaming"], ids=lambda c: f"n{c['rows']}-b{c['buffer_size']}-e{c['epoch']}"
)
def test_the_buffered_order_is_the_recorded_one(case: dict[str, Any]) -> None:
    recorded = [row for batch in case["batches"] for row in batch]
    order = buffer_shuffle(range(case["rows"]), seed=0, buffer_size=case["buffer_size"], epoch=case["epoch"])
    assert list(order)[: len(recorded)] == recorded


@given(count=st.integers(0, 60), seed=st.integers(0, 99), size=st.integers(1, 70), epoch=st.integers(0, 3))
def test_a_buffered_order_loses_nothing_and_comes_no_earlier_than_the_buffer_allows(
    count: int, seed: int, size: int, epoch: int
) -> None:
    order = list(buffer_shuffle(range(count), seed=seed, buffer_size=size, epoch=epoch))
    assert sorted(order) == list(range(count))
    assert all(row - place < size for place, row in enumerate(order))
    if size > count and epoch == 0:
        assert order == permutation(count, seed).tolist()


def test_a_buffered_order_reads_no_further_than_it_must() -> None:
    read = []

    def rows() -> Any:
        for number in range(100):
            read.append(number)
            yield number

    stream = buffer_shuffle(rows(), seed=0, buffer_size=10)
    next(stream)
    assert len(read) == 10


def test_an_empty_buffer_is_refused() -> None:
    with pytest.raises(ConfigError, match="shuffle_buffer: 0 rows are no buffer"):
        list(buffer_shuffle([1], seed=0, buffer_size=0))


@pytest.mark.parametrize("case", GOLDEN["split"], ids=lambda case: f"seed{case['seed']}")
def test_a_split_is_the_recorded_one(case: dict[str, Any]) -> None:
    parts = split_positions(case["rows"], {"test": case["test_size"], "train": None}, seed=case["seed"])
    assert parts["test"].tolist() == case["test"]
    assert parts["train"].tolist() == case["train"]


def sizes(total: int, parts: dict[str, int | float | None]) -> dict[str, int]:
    return {name: len(where) for name, where in split_positions(total, parts, seed=0).items()}


def test_fractions_use_every_row_when_they_add_up_to_one() -> None:
    assert sizes(10, {"train": 0.8, "test": 0.2}) == {"train": 8, "test": 2}
    assert sizes(7, {"train": 0.7, "validation": 0.15, "test": 0.15}) == {
        "train": 5,
        "validation": 1,
        "test": 1,
    }
    assert sizes(3, {"a": 0.1 + 0.2, "b": 0.7 - 1e-17}) == {"a": 1, "b": 2}
    assert sizes(100, {"a": 0.1, "b": 30, "c": None}) == {"a": 10, "b": 30, "c": 60}


@given(total=st.integers(30, 400), seed=st.integers(0, 9), share=st.floats(0.1, 0.8), count=st.integers(1, 5))
def test_parts_are_disjoint_and_seeded(total: int, seed: int, share: float, count: int) -> None:
    parts = split_positions(total, {"a": share, "b": count, "rest": None}, seed=seed)
    joined = np.concatenate(list(parts.values())).tolist()
    assert joined == permutation(total, seed).tolist()
    assert len(parts["b"]) == count
    assert abs(len(parts["a"]) - share * total) <= 1


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"a": 0.6, "b": 0.5}, "the fractions add up to 1.1"),
        ({"a": None, "b": None}, "both 'a' and 'b' are to take what is left"),
        ({"a": 0}, r"splits\.a: 0 is neither a number of rows nor a fraction"),
        ({"a": -0.5}, r"splits\.a: -0.5 is neither"),
        ({"a": 1.5}, r"splits\.a: 1.5 is neither"),
        ({"a": True}, r"splits\.a: True is neither"),
        ({"a": 8, "b": 3}, "11 rows asked for, 10 there"),
        ({"a": 10, "b": None}, r"splits\.b: no row is left for it out of 10"),
        ({"a": 0.01, "b": None}, r"splits\.a: no row is left for it out of 10"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(parts: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        split_positions(10, parts, seed=0)


def test_rows_and_snapshots_split_alike_and_parts_have_orders_of_their_own() -> None:
    rows = [{"n": n} for n in range(20)]
    store = LocalDatasetStore(memory=[MemoryDataset("numbers", rows)])
    whole = store.load(DatasetRef(id="numbers"))
    parts = split_snapshot(whole, {"test": 5, "train": None}, seed=0)
    plain = split_rows(rows, {"test": 5, "train": None}, seed=0)
    assert {name: list(part.rows) for name, part in parts.items()} == plain
    assert [row["n"] for row in plain["test"]] == [4, 19, 6, 2, 13]
    test, train = parts["test"].ref, parts["train"].ref
    assert test.digest == train.digest == whole.ref.digest
    assert len({test.order_digest, train.order_digest, whole.ref.order_digest}) == 3
    assert (test.rows, train.rows) == (5, 15)
    assert test.parents == ("dataset:numbers#test",)
    listed = DatasetSnapshot(ref=whole.ref, rows=rows)
    again = split_snapshot(listed, {"test": 5, "train": None}, seed=0)
    assert again["test"].ref == test
    assert list(again["train"].rows) == plain["train"]


def test_a_part_taken_by_skip_and_limit_is_the_part_of_a_split() -> None:
    rows = [{"n": n} for n in range(20)]
    store = LocalDatasetStore(memory=[MemoryDataset("numbers", rows)])
    parts = split_snapshot(store.load(DatasetRef(id="numbers")), {"test": 5, "train": None}, seed=0)
    test = store.load(DatasetRef(id="numbers", shuffle_seed=0, limit=5))
    train = store.load(DatasetRef(id="numbers", shuffle_seed=0, skip=5))
    assert test.ref.order_digest == parts["test"].ref.order_digest
    assert train.ref.order_digest == parts["train"].ref.order_digest
