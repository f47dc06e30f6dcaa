"""The local store: which files a reference means, splits, memory datasets, streams, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from crucible_datasets import HeldRows, LocalDatasetStore, MemoryDataset, MemoryDatasets, snapshot_of
from crucible_ir import (
    ConfigError,
    ConflictError,
    DataError,
    DatasetRef,
    ExitCode,
    IntegrityError,
    NotFoundError,
)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_holds_one_file_per_split(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"n": 1})
    write(tmp_path / "test.jsonl", {"n": 2})
    (tmp_path / "validation.csv").write_text("n\n3\n")
    write(tmp_path / "README.md")
    write(tmp_path / "_draft.jsonl")
    write(tmp_path / "nested" / "train.jsonl", {"n": 9})
    store = LocalDatasetStore(base_folder=tmp_path.parent)
    for split, n in (("train", 1), ("test", 2), ("validation", "3")):
        assert list(store.load(DatasetRef(id=tmp_path.name, split=split)).rows) == [{"n": n}]
    with pytest.raises(NotFoundError) as caught:
        store.load(DatasetRef(id=tmp_path.name, split="tst"))
    assert "no split 'tst'; there are: 'test', 'train', 'validation'; did you mean split=test?" in str(
        caught.value
    )
    assert caught.value.exit_code == ExitCode.NOT_FOUND


def test_numbered_parts_are_read_in_order_and_bad_lines_name_their_own_file(tmp_path: Path) -> None:
    for part in (2, 0, 1):
        write(tmp_path / f"test-0000{part}-of-00003.jsonl", {"n": part}, {"n": part + 10})
    store = LocalDatasetStore()
    ref = DatasetRef(id=str(tmp_path), split="test")
    assert [row["n"] for row in store.load(ref).rows] == [0, 10, 1, 11, 2, 12]
    second = tmp_path / "test-00001-of-00003.jsonl"
    second.write_text('{"n": 1}\n{"n"\n')
    with pytest.raises(DataError, match=r"test-00001-of-00003\.jsonl, line 2, column 5"):
        store.load(ref)
    second.write_text('{"n": 1}\n\n{"n": ""}\n')
    mapped = ref.model_copy(update={"mapping": {"fields": {"prompt": "n", "completion": "n"}}})
    with pytest.raises(DataError, match=r"test-00000-of-00003\.jsonl, line 1"):
        store.load(mapped)


def test_one_split_in_two_forms_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"n": 1})
    (tmp_path / "train.csv").write_text("n\n1\n")
    with pytest.raises(DataError, match=r"several files hold the split 'train': train\.csv, train\.jsonl"):
        LocalDatasetStore().load(DatasetRef(id=str(tmp_path)))
    (tmp_path / "train.csv").unlink()
    write(tmp_path / "train-00000-of-00001.jsonl", {"n": 1})
    with pytest.raises(DataError, match="several files hold the split"):
        LocalDatasetStore().load(DatasetRef(id=str(tmp_path)))


def test_a_single_file_is_train_and_what_its_name_says_and_nothing_else(tmp_path: Path) -> None:
    path = str(write(tmp_path / "test.jsonl", {"n": 1}))
    store = LocalDatasetStore()
    assert len(store.load(DatasetRef(id=path)).rows) == 1
    assert len(store.load(DatasetRef(id=path, split="test")).rows) == 1
    with pytest.raises(NotFoundError, match="no split 'validation'; there are: 'test', 'train'; name one"):
        store.load(DatasetRef(id=path, split="validation"))


def test_a_document_may_hold_every_split(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"train": [{"n": 1}], "held": [{"n": 2}]}))
    assert list(LocalDatasetStore().load(DatasetRef(id=str(path), split="held")).rows) == [{"n": 2}]


def test_a_missing_path_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "train_small.jsonl", {"n": 1})
    with pytest.raises(NotFoundError, match=r"did you mean '.*train_small\.jsonl'"):
        LocalDatasetStore().load(DatasetRef(id=str(tmp_path / "train_smal.jsonl")))
    with pytest.raises(NotFoundError, match="check the path"):
        LocalDatasetStore().load(DatasetRef(id=str(tmp_path / "no" / "where.jsonl")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="no split 'train'; there are: none"):
        LocalDatasetStore().load(DatasetRef(id=str(tmp_path / "empty")))


def test_hub_ids_and_the_versioned_store_are_refused_with_the_remedy() -> None:
    store = LocalDatasetStore()
    for ref in (DatasetRef(id="allenai/tulu-3-sft-mixture"), DatasetRef(id="a.jsonl", source="hub")):
        with pytest.raises(ConfigError, match="reads no hub; .*dataset_store = 'huggingface'"):
            store.load(ref)
    with pytest.raises(ConfigError, match="there is no versioned dataset store"):
        store.load(DatasetRef(id="x", source="store"))
    assert not store.holds(DatasetRef(id="allenai/tulu-3-sft-mixture"))
    assert store.holds(DatasetRef(id="x", source="file"))


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n")
    for streaming in (False, True):
        with pytest.raises(DataError, match=r"a\.jsonl: no rows"):
            LocalDatasetStore().load(DatasetRef(id=str(path), streaming=streaming))


@pytest.mark.parametrize("mapping", [{}, {"schema": "auto"}, {"schema": "messages"}])
def test_checking_an_empty_dataset_says_so_whatever_the_mapping(
    tmp_path: Path, mapping: dict[str, str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("")
    ref = DatasetRef(id=str(path), mapping=mapping)
    with pytest.raises(DataError, match=r"a\.jsonl: no rows"):
        LocalDatasetStore().check(ref)
    assert list(LocalDatasetStore().stream(ref)) == []


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", {"n": 1})
    assert len(LocalDatasetStore().load(DatasetRef(id="~/a.jsonl")).rows) == 1
    assert len(LocalDatasetStore(base_folder="~").load(DatasetRef(id="a.jsonl")).rows) == 1


def test_check_reads_the_first_rows_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"prompt": "a", "completion": "b"} for _ in range(200)))
    with path.open("a") as file:
        file.write("oops\n")
    ref = DatasetRef(
        id=str(path), mapping={"schema": "auto"}, digest="sha256:" + "0" * 64, skip=7, shuffle_seed=1
    )
    store = LocalDatasetStore()
    store.check(ref)
    with pytest.raises(DataError, match="line 201"):
        store.load(ref)
    path.write_text("oops\n")
    with pytest.raises(DataError, match="line 1, column 1"):
        store.check(ref)
    path.write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="no known schema has the columns 'a'"):
        store.check(ref)


def test_memory_datasets_have_names_and_splits() -> None:
    dataset = MemoryDataset("sums", {"train": [{"n": 1}], "test": [{"n": 2}]})
    store = LocalDatasetStore(memory=[dataset])
    assert dataset.splits == ("train", "test")
    assert list(store.load(DatasetRef(id="sums", split="test")).rows) == [{"n": 2}]
    assert store.load(DatasetRef(id="sums", split="test")).ref.digest == dataset.digest("test")
    assert [row["n"] for row in store.stream(DatasetRef(id="sums"))] == [1]
    store.check(DatasetRef(id="sums"))
    store.add(dataset)
    with pytest.raises(NotFoundError, match="no split 'tset'; .* did you mean 'test'"):
        store.load(DatasetRef(id="sums", split="tset"))
    with pytest.raises(NotFoundError, match="no memory dataset 'sum'; did you mean 'sums'"):
        store.load(DatasetRef(id="sum", source="memory"))
    with pytest.raises(ConflictError, match="'sums' is registered already"):
        store.add(MemoryDataset("sums", [{"n": 3}]))
    assert list(MemoryDatasets([dataset])) == ["sums"]


def test_a_file_goes_before_a_memory_dataset_of_its_name_unless_the_source_is_named(tmp_path: Path) -> None:
    write(tmp_path / "sums.jsonl", {"n": "file"})
    store = LocalDatasetStore(base_folder=tmp_path, memory=[MemoryDataset("sums.jsonl", [{"n": "memory"}])])
    assert store.load(DatasetRef(id="sums.jsonl")).rows[0]["n"] == "file"
    assert store.load(DatasetRef(id="sums.jsonl", source="memory")).rows[0]["n"] == "memory"


def test_a_memory_dataset_takes_json_rows_alone() -> None:
    with pytest.raises(DataError, match=r"bad\[train\], row 2: list, where a mapping was expected"):
        MemoryDataset("bad", [{"n": 1}, [1]])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"bad\[train\], row 1: nan has no canonical form"):
        MemoryDataset("bad", [{"n": float("nan")}])
    with pytest.raises(DataError, match="bad: no splits"):
        MemoryDataset("bad", {})


def test_a_stream_reads_no_further_than_it_must(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"n": n} for n in range(300)))
    with path.open("a") as file:
        file.write("oops\n")
    store = LocalDatasetStore()
    snapshot = store.load(DatasetRef(id=str(path), streaming=True, skip=5, limit=20))
    assert [row["n"] for row in snapshot.rows] == list(range(5, 25))
    seeded = store.load(DatasetRef(id=str(path), streaming=True, limit=20, shuffle_seed=3, shuffle_buffer=50))
    assert all(row["n"] < 100 for row in seeded.rows)
    stream = store.stream(DatasetRef(id=str(path)))
    with pytest.raises(DataError, match="line 301"):
        list(stream)
    assert stream.seen == 300


def test_a_stream_counts_drops_and_pins_what_it_delivered(tmp_path: Path) -> None:
    rows = [{"prompt": "a" * (n % 4), "completion": "b"} for n in range(40)]
    ref = DatasetRef(
        id=str(write(tmp_path / "a.jsonl", *rows)),
        mapping={"schema": "auto"},
        streaming=True,
        shuffle_seed=1,
        shuffle_buffer=8,
        skip=2,
        limit=10,
    )
    store = LocalDatasetStore()
    first = store.load(ref)
    assert len(first.rows) == 10
    assert first.drops[0].reason == "prompt is empty"
    assert store.load(first.ref).ref == first.ref
    with pytest.raises(IntegrityError, match="the order of the data set is"):
        store.load(first.ref.model_copy(update={"shuffle_seed": 2, "digest": None}))
    empty = write(tmp_path / "b.jsonl", *[{"prompt": "", "completion": "b"}] * 5)
    with pytest.raises(DataError, match="none of the 5 rows fits the mapping"):
        store.load(ref.model_copy(update={"id": str(empty)}))
    with pytest.raises(DataError, match="skip=30 leaves none of the 30 usable rows"):
        store.load(ref.model_copy(update={"skip": 30}))


def test_rows_held_without_a_place_are_named_by_number() -> None:
    held = HeldRows([{"prompt": "", "completion": "x"}, {"prompt": "a", "completion": "x"}])
    snapshot = snapshot_of(held, DatasetRef(id="held", mapping={"schema": "auto"}))
    assert snapshot.drops[0].first == "row 1"
    assert list(snapshot.rows[0:1]) == list(snapshot.rows)
