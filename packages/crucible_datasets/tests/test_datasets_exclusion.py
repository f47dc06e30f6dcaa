"""Rows that another dataset holds are taken out first, counted, and part of what the digests say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crucible_datasets import (
    FieldMapping,
    HeldRows,
    LocalDatasetStore,
    MemoryDataset,
    permutation,
    snapshot_of,
)
from crucible_ir import ConfigError, DataError, DatasetRef, DatasetSnapshot, IntegrityError, NotFoundError

TEST = [{"problem": "p3", "answer": "3"}, {"problem": "p7", "answer": "7"}, {"other": 1}]
TRAIN = [{"problem": f"p{n}", "answer": str(n)} for n in range(10)]
PLACE = "train[train], row"


def store(train: list[dict[str, Any]] = TRAIN, test: list[dict[str, Any]] = TEST) -> LocalDatasetStore:
    memory = [MemoryDataset("train", train), MemoryDataset("test", {"test": test, "none": []})]
    return LocalDatasetStore(memory=memory)


def excluding(column: str = "problem", split: str = "test", **dataset: Any) -> dict[str, Any]:
    there = {"id": "test", "source": "memory", "split": split, **dataset}
    return {"schema": "problem", "exclude": {"column": column, "dataset": there}}


def load(ref: dict[str, Any], mapping: dict[str, Any], **data: list[dict[str, Any]]) -> DatasetSnapshot:
    return store(**data).load(DatasetRef(id="train", source="memory", mapping=mapping, **ref))


def answers(snapshot: DatasetSnapshot) -> list[int]:
    return [int(row["answer"]) for row in snapshot.rows]


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_that_the_other_dataset_holds_are_left_out_and_counted(streaming: bool) -> None:
    snapshot = load({"streaming": streaming}, excluding())
    assert answers(snapshot) == [0, 1, 2, 4, 5, 6, 8, 9]
    (drop,) = snapshot.drops
    assert drop.reason == "excluded: its 'problem' stands in test[test]"
    assert (drop.count, drop.first) == (2, f"{PLACE} 4")


def test_the_order_is_that_of_the_rows_that_are_left() -> None:
    left = [0, 1, 2, 4, 5, 6, 8, 9]
    shuffled = load({"shuffle_seed": 5}, excluding())
    assert answers(shuffled) == [left[n] for n in permutation(8, 5)]
    cut = load({"shuffle_seed": 5, "skip": 2, "limit": 3}, excluding())
    assert answers(cut) == answers(shuffled)[2:5]
    streamed = load({"shuffle_seed": 5, "streaming": True}, excluding())
    assert sorted(answers(streamed)) == left


def test_rows_may_stay_as_they_are() -> None:
    snapshot = load({}, excluding() | {"schema": "raw"})
    assert [row["problem"] for row in snapshot.rows] == [f"p{n}" for n in range(10) if n not in (3, 7)]
    assert sum(drop.count for drop in snapshot.drops) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_misfits_are_counted_beside_what_is_excluded(streaming: bool) -> None:
    train = [*TRAIN, {"problem": "p11", "answer": ""}]
    snapshot = load({"streaming": streaming}, excluding(), train=train)
    assert [(drop.reason.split(":")[0], drop.count) for drop in snapshot.drops] == [
        ("excluded", 2),
        ("answer is empty", 1),
    ]
    nothing = [{"problem": "p3", "answer": "3"}, {"problem": "p11", "answer": ""}]
    with pytest.raises(DataError, match=r"none of the 2 rows fits the mapping: excluded.*; answer is empty"):
        load({"streaming": streaming}, excluding(), train=nothing)


def test_what_was_excluded_is_pinned_with_the_rest() -> None:
    loaded = load({"shuffle_seed": 0}, excluding()).ref
    again = store().load(loaded).ref
    assert again == loaded
    pinned = FieldMapping.parse(loaded.mapping).exclude
    assert pinned is not None
    assert pinned.dataset.digest is not None
    with pytest.raises(IntegrityError, match="the content of the data set is"):
        store(test=[*TEST, {"problem": "p12"}]).load(loaded)


def test_the_digests_tell_what_was_excluded() -> None:
    plain = load({}, {"schema": "problem"}).ref
    without = load({}, excluding()).ref
    fewer = load({}, excluding(), test=TEST[:1]).ref
    assert plain.digest == without.digest == fewer.digest
    for name in ("order_digest", "transform_digest"):
        assert len({getattr(ref, name) for ref in (plain, without, fewer)}) == 3


def test_where_the_other_dataset_is_stored_does_not_change_the_digests(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TEST))
    here = load({}, excluding(id=str(path), source="file")).ref
    assert here.transform_digest == load({}, excluding()).ref.transform_digest


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (excluding(column="problm"), "'test' has no column 'problm'; did you mean 'problem'"),
        (excluding(column="other"), "'train' has no column 'other'"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_that_either_lacks_is_refused(
    mapping: dict[str, Any], message: str, streaming: bool
) -> None:
    with pytest.raises(ConfigError, match=message):
        load({"streaming": streaming}, mapping)


@pytest.mark.parametrize(
    ("exclude", "path"),
    [
        ("problem", "mapping.exclude"),
        ({"column": "", "dataset": {"id": "test"}}, "mapping.exclude.column"),
        ({"column": "problem"}, "mapping.exclude.dataset"),
        ({"column": "problem", "dataset": {"idd": "test"}}, "mapping.exclude.dataset.id"),
        ({"columns": "a", "column": "a", "dataset": {"id": "test"}}, "mapping.exclude.columns"),
    ],
)
def test_what_is_no_exclusion_is_named_with_its_path(exclude: Any, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FieldMapping.parse({"schema": "problem", "exclude": exclude})
    assert path in [problem.path for problem in caught.value.problems]


def test_a_mapping_that_excludes_reads_back() -> None:
    mapping = FieldMapping.parse(excluding(limit=2))
    assert FieldMapping.parse(mapping.as_dict()) == mapping


def test_the_check_looks_for_the_other_dataset() -> None:
    ref = DatasetRef(id="train", source="memory", mapping=excluding(split="tset"))
    with pytest.raises(NotFoundError, match="no split 'tset'"):
        store().check(ref)
    store().check(ref.model_copy(update={"mapping": excluding()}))


def test_without_a_store_nothing_can_be_excluded() -> None:
    with pytest.raises(ConfigError, match="nothing here loads it"):
        snapshot_of(HeldRows(TRAIN), DatasetRef(id="held", mapping=excluding()))


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_that_are_joined_are_read_one_after_the_other(tmp_path: Path, streaming: bool) -> None:
    for split, rows in (("train", TRAIN[:4]), ("test", TRAIN[4:6])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(lines)
    local = LocalDatasetStore(
        base_folder=tmp_path, memory=[MemoryDataset("held", {"train": TRAIN[:4], "test": TRAIN[4:6]})]
    )
    for ref in (DatasetRef(id="."), DatasetRef(id="held", source="memory")):
        fields = {"split": "test+train", "streaming": streaming}
        snapshot = local.load(ref.model_copy(update=fields))
        assert list(snapshot.rows) == [*TRAIN[4:6], *TRAIN[:4]]


@pytest.mark.parametrize("split", ["train+", "+", "train+train"])
def test_splits_are_joined_once_each(split: str) -> None:
    with pytest.raises(ConfigError, match="an empty name or one twice"):
        store().load(DatasetRef(id="train", source="memory", split=split))


def test_a_joined_split_that_is_not_there_is_said_before_anything_is_read() -> None:
    with pytest.raises(NotFoundError, match="no split 'tset'"):
        store().stream(DatasetRef(id="test", source="memory", split="test+tset"))


@pytest.mark.real
def test_the_test_problems_of_math_are_taken_out_of_a_file_that_holds_them(
    shared_data: Path, tmp_path: Path
) -> None:
    there = shared_data / "datasets/math500"
    held = LocalDatasetStore().load(DatasetRef(id=str(there), split="test")).rows
    mixed = [{"problem": f"What is {n}?", "solution": f"\\boxed{{{n}}}"} for n in range(20)]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*held[:250], *mixed, *held[250:]]))
    exclude = {"column": "problem", "dataset": {"id": str(there), "split": "test"}}
    mapping = {"schema": "problem_boxed", "exclude": exclude}
    snapshot = LocalDatasetStore().load(DatasetRef(id=str(path), mapping=mapping))
    assert [row["answer"] for row in snapshot.rows] == [str(n) for n in range(20)]
    assert [drop.count for drop in snapshot.drops] == [500]
