"""load_dataset: which rows these are, and that there are enough of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crucible_ir import DataError, DatasetRef, DatasetSnapshot, IntegrityError, NotFoundError
from crucible_kitchen.stages.keys import DATASET, EVAL_DATASET, PROVENANCE
from crucible_kitchen.stages.load_dataset import LoadDataset
from crucible_testing.bench import StageBench, chat_rows, toy_experiment, write_chats


def bench_of(folder: Path, update: dict[str, Any] | None = None, **settings: Any) -> StageBench:
    experiment = toy_experiment(folder, **settings).model_copy(update=update or {})
    return StageBench(folder / "run_1_00000000", experiment)


def test_a_batch_as_large_as_the_data_fits_and_one_row_more_does_not(tmp_path: Path) -> None:
    assert bench_of(tmp_path, batch_size=16).check(LoadDataset) == []
    (problem,) = bench_of(tmp_path, batch_size=17).check(LoadDataset)
    path = tmp_path / "train.jsonl"
    assert problem == (
        f"training.batch_size: batch of 17 is larger than the 16 rows of '{path}'; "
        "give batch_size ≤ 16, or drop_last=false"
    )


def test_a_partial_batch_may_be_smaller_when_it_is_kept(tmp_path: Path) -> None:
    assert bench_of(tmp_path, batch_size=17, drop_last=False).check(LoadDataset) == []


@pytest.mark.parametrize("update", [{"source": "hub"}, {"streaming": True}])
def test_data_that_cost_a_download_are_not_loaded_to_count_them(
    tmp_path: Path, update: dict[str, Any]
) -> None:
    class Store:
        loaded = 0

        def check(self, ref: DatasetRef) -> None:
            return

        def load(self, ref: DatasetRef) -> DatasetSnapshot:
            self.loaded += 1
            raise AssertionError

    experiment = toy_experiment(tmp_path, batch_size=17)
    assert experiment.dataset is not None
    ref = experiment.dataset.model_copy(update=update)
    store = Store()
    bench = StageBench(
        tmp_path / "run",
        experiment.model_copy(update={"dataset": ref}),
        adapters={"dataset_store": store},
    )
    assert bench.check(LoadDataset) == []
    assert store.loaded == 0


def test_a_dataset_must_be_named(tmp_path: Path) -> None:
    assert bench_of(tmp_path, {"dataset": None}).check(LoadDataset) == [
        "dataset: missing; name a file, folder or hub id"
    ]


@pytest.mark.parametrize("name", ["dataset", "eval_dataset"])
def test_a_dataset_that_is_not_there_is_found_out_before_the_run(tmp_path: Path, name: str) -> None:
    gone = DatasetRef(id=str(tmp_path / "gone.jsonl"))
    with pytest.raises(NotFoundError, match=r"gone\.jsonl"):
        bench_of(tmp_path, {name: gone}).check(LoadDataset)


def test_both_datasets_are_loaded_and_said_to_be(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    bench.run(LoadDataset)
    assert len(bench[DATASET].rows) == 16
    held_out = bench[EVAL_DATASET]
    assert held_out is not None
    assert len(held_out.rows) == 6
    assert [(e["role"], e["rows"], e["drops"]) for e in bench.of("dataset.loaded")] == [
        ("train", 16, []),
        ("held_out", 6, []),
    ]
    provenance = bench[PROVENANCE]
    assert set(provenance) == {"dataset", "eval_dataset"}
    for part in ("digest", "order_digest", "transform_digest"):
        assert provenance["dataset"][part].startswith("sha256:")
    assert provenance["dataset"] == bench.of("dataset.loaded")[0]["dataset"]


def test_without_held_out_data_there_is_none(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, held_out=0)
    bench.run(LoadDataset)
    assert bench[EVAL_DATASET] is None
    assert set(bench[PROVENANCE]) == {"dataset"}


def test_what_the_check_loaded_is_not_loaded_again(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    assert bench.check(LoadDataset) == []
    (tmp_path / "train.jsonl").unlink()
    bench.run(LoadDataset)
    assert len(bench[DATASET].rows) == 16
    assert bench.prepared == {}


def test_rows_that_do_not_fit_the_mapping_are_counted_with_the_first_named(tmp_path: Path) -> None:
    experiment = toy_experiment(tmp_path)
    rows: list[dict[str, Any]] = [*chat_rows(3), {"messages": "not a list"}, {"messages": 3}]
    path = write_chats(tmp_path / "mixed.jsonl", rows)
    ref = DatasetRef(id=path, mapping={"schema": "messages"})
    bench = StageBench(tmp_path / "run", experiment.model_copy(update={"dataset": ref}))
    bench.run(LoadDataset)
    loaded = bench.of("dataset.loaded")[0]
    assert loaded["rows"] == 3
    assert sum(drop["count"] for drop in loaded["drops"]) == 2
    assert "mixed.jsonl" in loaded["drops"][0]["first"]


def test_a_dataset_without_rows_is_an_error(tmp_path: Path) -> None:
    class Empty:
        def load(self, ref: DatasetRef) -> DatasetSnapshot:
            return DatasetSnapshot(ref=ref, rows=[])

    bench = StageBench(tmp_path / "run", toy_experiment(tmp_path), adapters={"dataset_store": Empty()})
    with pytest.raises(DataError, match="has no rows"):
        bench.run(LoadDataset)


def test_provenance_of_a_resumed_run_keeps_its_other_parts(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    bench[PROVENANCE] = {"model": {"id": "kept"}}
    bench.run(LoadDataset)
    assert bench[PROVENANCE]["model"] == {"id": "kept"}


@pytest.mark.parametrize("name", ["train.jsonl", "held_out.jsonl"])
def test_a_run_does_not_go_on_with_other_rows(tmp_path: Path, name: str) -> None:
    bench = bench_of(tmp_path)
    bench.run(LoadDataset)
    bench.run(LoadDataset)
    write_chats(tmp_path / name, chat_rows(9, first=90))
    with pytest.raises(IntegrityError, match="is not the one this run began with") as caught:
        bench.run(LoadDataset)
    assert caught.value.where == ("dataset" if name == "train.jsonl" else "eval_dataset")
