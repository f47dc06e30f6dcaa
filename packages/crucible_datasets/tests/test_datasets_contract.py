"""The local store keeps the contract of its port, for files, gzip, CSV, JSON documents and memory."""

import csv
import gzip
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crucible_datasets import LocalDatasetStore, MemoryDataset
from crucible_ir import DatasetRef
from crucible_testing.contracts.dataset_store import DatasetStoreContract, PlaceRows


def lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


class TestJsonLines(DatasetStoreContract):
    @pytest.fixture
    def store(self) -> LocalDatasetStore:
        return LocalDatasetStore()

    @pytest.fixture
    def place(self, tmp_path: Path) -> PlaceRows:
        numbers = itertools.count()

        def write(rows: Sequence[dict[str, Any]]) -> DatasetRef:
            path = tmp_path / f"rows{next(numbers)}.jsonl"
            path.write_bytes(lines(rows))
            return DatasetRef(id=str(path))

        return write

    @pytest.fixture
    def missing(self, tmp_path: Path) -> DatasetRef:
        return DatasetRef(id=str(tmp_path / "nowhere.jsonl"))


class TestGzipFolder(TestJsonLines):
    @pytest.fixture
    def place(self, tmp_path: Path) -> PlaceRows:
        numbers = itertools.count()

        def write(rows: Sequence[dict[str, Any]]) -> DatasetRef:
            folder = tmp_path / f"set{next(numbers)}"
            folder.mkdir()
            (folder / "train.jsonl.gz").write_bytes(gzip.compress(lines(rows)))
            return DatasetRef(id=str(folder))

        return write


class TestCsv(TestJsonLines):
    @pytest.fixture
    def place(self, tmp_path: Path) -> PlaceRows:
        numbers = itertools.count()

        def write(rows: Sequence[dict[str, Any]]) -> DatasetRef:
            path = tmp_path / f"rows{next(numbers)}.csv"
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            return DatasetRef(id=str(path))

        return write

    def test_rows_that_do_not_fit_are_counted_with_reason_and_place(
        self, store: LocalDatasetStore, tmp_path: Path
    ) -> None:
        path = tmp_path / "rows.csv"
        path.write_text('prompt,completion\na,b\n"a\nb",c\n,x\nd,e\n')
        snapshot = store.load(DatasetRef(id=str(path), mapping={"schema": "auto"}))
        assert len(snapshot.rows) == 3
        assert [(d.reason, d.count) for d in snapshot.drops] == [("prompt is empty", 1)]
        assert snapshot.drops[0].first == f"{path}, line 5"


class TestJsonDocument(TestJsonLines):
    @pytest.fixture
    def place(self, tmp_path: Path) -> PlaceRows:
        numbers = itertools.count()

        def write(rows: Sequence[dict[str, Any]]) -> DatasetRef:
            path = tmp_path / f"rows{next(numbers)}.json"
            path.write_text(json.dumps(list(rows), indent=2), encoding="utf-8")
            return DatasetRef(id=str(path))

        return write


class TestMemory(DatasetStoreContract):
    @pytest.fixture
    def store(self) -> LocalDatasetStore:
        return LocalDatasetStore()

    @pytest.fixture
    def place(self, store: LocalDatasetStore) -> PlaceRows:
        numbers = itertools.count()

        def register(rows: Sequence[dict[str, Any]]) -> DatasetRef:
            name = f"rows{next(numbers)}"
            store.add(MemoryDataset(name, rows))
            return DatasetRef(id=name, source="memory")

        return register

    @pytest.fixture
    def missing(self) -> DatasetRef:
        return DatasetRef(id="nowhere", source="memory")
