"""Datasets that live in memory, under a name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from crucible_datasets.digests import canonical_row, content_digest
from crucible_ir import ConflictError, DataError, NotFoundError, Row, nearest

__all__ = ["MemoryDataset", "MemoryDatasets"]


class MemoryDataset:
    """Rows under a name, one list per split.

    Raises:
        DataError: a row that is no JSON object, or no split at all.
    """

    def __init__(self, name: str, rows: Iterable[Row] | Mapping[str, Iterable[Row]]) -> None:
        self.name = name
        given: Mapping[str, Iterable[Row]] = rows if isinstance(rows, Mapping) else {"train": rows}
        self._splits: dict[str, tuple[Row, ...]] = {
            split: tuple(self._checked(split, number, row) for number, row in enumerate(items, start=1))
            for split, items in given.items()
        }
        if not self._splits:
            raise DataError(what="no splits", where=name, remedy='give rows, or {"train": rows}')

    def _checked(self, split: str, number: int, row: Any) -> Row:
        where = f"{self.name}[{split}], row {number}"
        if not isinstance(row, Mapping):
            raise DataError(
                what=f"{type(row).__name__}, where a mapping was expected",
                where=where,
                remedy="give each row as a dict",
            )
        try:
            canonical_row(row)
        except DataError as error:
            raise DataError(what=error.what, where=where, remedy=error.remedy) from error
        return row

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._splits)

    def rows(self, split: str = "train") -> tuple[Row, ...]:
        """Rows of one split.

        Raises:
            NotFoundError: no such split.
        """
        if split not in self._splits:
            near = nearest(split, self._splits)
            raise NotFoundError(
                what=f"no split {split!r}; there are {', '.join(map(repr, self._splits))}",
                where=self.name,
                remedy=f"did you mean {near!r}?" if near else "name one of them",
            )
        return self._splits[split]

    def digest(self, split: str = "train") -> str:
        """Content digest of one split."""
        return content_digest(self.rows(split))


class MemoryDatasets:
    """The memory datasets of one store, by name."""

    def __init__(self, datasets: Iterable[MemoryDataset] = ()) -> None:
        self._datasets: dict[str, MemoryDataset] = {}
        for dataset in datasets:
            self.add(dataset)

    def add(self, dataset: MemoryDataset) -> None:
        """Register a dataset.

        Raises:
            ConflictError: another one has this name.
        """
        if self._datasets.get(dataset.name, dataset) is not dataset:
            raise ConflictError(
                what=f"a memory dataset named {dataset.name!r} is registered already",
                where="memory",
                remedy="choose another name",
            )
        self._datasets[dataset.name] = dataset

    def get(self, name: str) -> MemoryDataset:
        """The dataset of this name.

        Raises:
            NotFoundError: none.
        """
        if name not in self._datasets:
            near = nearest(name, self._datasets)
            raise NotFoundError(
                what=f"no memory dataset {name!r}",
                where="memory",
                remedy=f"did you mean {near!r}?" if near else "register it with the store first",
            )
        return self._datasets[name]

    def __contains__(self, name: object) -> bool:
        return name in self._datasets

    def __iter__(self) -> Iterator[str]:
        return iter(self._datasets)
