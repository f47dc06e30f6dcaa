"""Datasets of the Hugging Face hub, and local Parquet files, through ``datasets``."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from crucible_datasets import (
    FieldMapping,
    LocalDatasetStore,
    PlacedRow,
    RowStream,
    snapshot_of,
    snapshot_of_stream,
)
from crucible_datasets.files import dataset_files, joined, looks_like_path
from crucible_ir import DataError, DatasetRef, DatasetSnapshot, Row
from crucible_kitchen.adapters.hf_client import HubErrors, NoProgressBars, hub_token, missing_sdk

__all__ = ["HuggingFaceDatasetStore"]

_TURNED_TYPES = ("float", "double", "timestamp", "date", "time", "duration", "binary", "decimal", "extension")


class HuggingFaceDatasetStore:
    """Loads hub datasets (also gated and streamed ones), local Parquet files and folders, and saved datasets.

    What the local store can read (JSONL, CSV and JSON files, folders of them, memory datasets) it reads through
    that. A hub reference that is loaded comes back with the commit as its revision. The token comes from HF_TOKEN
    alone. Cells that JSON has no form for are turned: dates and times to ISO text, decimals to text, NaN to null.

    Raises:
        AdapterError: ``datasets`` is not installed.
    """

    required_modules: ClassVar[tuple[str, ...]] = ("datasets",)

    def __init__(
        self, *, cache_dir: str | Path | None = None, local: LocalDatasetStore | None = None
    ) -> None:
        if importlib.util.find_spec("datasets") is None:
            raise missing_sdk(
                group="crucible.dataset_store", name="huggingface", package="datasets", extra="datasets"
            )
        self._cache_dir = None if cache_dir is None else str(Path(cache_dir).expanduser())
        self._local = local or LocalDatasetStore()

    def load(self, ref: DatasetRef) -> DatasetSnapshot:
        """Rows of ``ref`` in order, with its digests and commit filled in.

        ``streaming`` reads a hub dataset row by row and downloads no more than it needs; the content digest is then
        that of the rows read.

        Raises:
            NotFoundError: no such repository, revision, configuration, split or file.
            ConfigError: gated, and HF_TOKEN is missing or has no access; or a mapping that does not fit.
            ServiceError: the hub failed or cannot be reached.
            DataError: data that cannot be read, or nothing left after mapping.
            IntegrityError: ``ref`` carries a digest that the data do not have.
        """
        if self._is_local(ref):
            return self._local.load(ref, load_excluded=self.load)
        FieldMapping.parse(ref.mapping)
        with self._errors(ref):
            dataset, ref = self._open(ref)
            if ref.streaming:
                return snapshot_of_stream(self._placed(dataset, ref), ref, load=self.load)
            rows = _ArrowRows(dataset, label=f"{ref.id}[{ref.split}], row")
            return snapshot_of(rows, ref, load=self.load)

    def stream(self, ref: DatasetRef) -> RowStream:
        """Rows of ``ref`` one after the other, with bounded memory.

        Raises:
            NotFoundError, ConfigError, ServiceError, DataError: as ``load``.
        """
        if self._is_local(ref):
            return self._local.stream(ref, load_excluded=self.load)
        with self._errors(ref):
            dataset, ref = self._open(ref.model_copy(update={"streaming": True}))
            return RowStream(self._placed(dataset, ref), ref, load=self.load)

    def check(self, ref: DatasetRef) -> None:
        """Look whether ``load`` can begin: files exist; a hub repository exists and lets this token in.

        With HF_HUB_OFFLINE set, a hub reference passes: only loading can tell what the cache holds.

        Raises:
            NotFoundError, ConfigError, ServiceError, DataError: as ``load``.
        """
        if self._is_local(ref):
            self._local.check(ref, check_excluded=self.check)
            return
        exclude = FieldMapping.parse(ref.mapping).exclude
        if exclude is not None:
            self.check(exclude.dataset)
        if not self._exists_here(ref):
            with self._errors(ref):
                self._commit(ref)

    def _exists_here(self, ref: DatasetRef) -> bool:
        return ref.source in ("auto", "file") and self._local.path_of(ref).exists()

    def _is_local(self, ref: DatasetRef) -> bool:
        """Whether the local store reads this: everything but the hub, Parquet and saved datasets."""
        if ref.source in ("memory", "store"):
            return True
        path = self._local.path_of(ref)
        if ref.source == "hub" or not path.exists():
            path_like = ref.source == "auto" and looks_like_path(ref.id)
            return ref.source == "file" or path_like or (ref.source == "auto" and self._local.holds(ref))
        if path.is_dir():
            return not _needs_datasets(path)
        return ref.format != "parquet" and path.suffix != ".parquet"

    def _errors(self, ref: DatasetRef) -> HubErrors:
        from huggingface_hub import constants

        where = ref.id + (f"@{ref.revision}" if ref.revision else "")
        return HubErrors(where, page=f"{constants.ENDPOINT}/datasets/{ref.id}")

    def _commit(self, ref: DatasetRef) -> str | None:
        """The commit that ``ref.revision`` names, access checked; None when the hub is switched off."""
        from huggingface_hub import HfApi, constants

        if constants.HF_HUB_OFFLINE:
            return ref.revision
        api = HfApi(token=hub_token(), library_name="crucible")
        info = api.dataset_info(ref.id, revision=ref.revision)
        if info.gated or info.private:
            api.auth_check(ref.id, repo_type="dataset")
        return info.sha

    def _open(self, ref: DatasetRef) -> tuple[Any, DatasetRef]:
        """The rows of every configuration and split that ``ref`` joins, and ``ref`` with the commit they are of."""
        import datasets

        splits = joined(ref.split, where="dataset.split")
        configs = [None] if ref.config is None else joined(ref.config, where="dataset.config")
        parts = [ref.model_copy(update={"config": c, "split": s}) for c in configs for s in splits]
        if self._exists_here(ref):
            pieces = [self._open_here(part) for part in parts]
        else:
            ref = ref.model_copy(update={"revision": self._commit(ref)})
            given = {"revision": ref.revision, "token": hub_token()}
            pieces = [self._load_dataset(part.id, part, **given) for part in parts]
        return pieces[0] if len(pieces) == 1 else datasets.concatenate_datasets(pieces), ref

    def _open_here(self, ref: DatasetRef) -> Any:
        """The rows of a Parquet file, a folder of them, or a saved dataset."""
        import datasets

        path = self._local.path_of(ref)
        if path.is_file():
            dataset_files(path, ref)
            named = ref.model_copy(update={"config": None})
            return self._load_dataset("parquet", named, data_files={ref.split: str(path)})
        if (path / "state.json").exists():
            return datasets.load_from_disk(str(path))
        if (path / "dataset_dict.json").exists():
            saved = datasets.load_from_disk(str(path))
            if ref.split not in saved:
                raise ValueError(f'Unknown split "{ref.split}". Should be one of {list(saved)}.')
            return saved[ref.split]
        return self._load_dataset(str(path.absolute()), ref)

    def _load_dataset(self, path: str, ref: DatasetRef, **given: Any) -> Any:
        """``datasets.load_dataset`` of one configuration and split, without progress bars."""
        import datasets
        import huggingface_hub

        with NoProgressBars(datasets.utils), NoProgressBars(huggingface_hub.utils):
            return datasets.load_dataset(
                path,
                ref.config,
                split=ref.split,
                streaming=ref.streaming,
                cache_dir=self._cache_dir,
                **given,
            )

    def _placed(self, dataset: Any, ref: DatasetRef) -> Iterator[PlacedRow]:
        label = f"{ref.id}[{ref.split}], row"
        turned = _needs_turning(dataset)
        with self._errors(ref):
            for number, row in enumerate(dataset, start=1):
                yield PlacedRow(label, number, _json_row(row, f"{label} {number}") if turned else row)


class _ArrowRows:
    """Rows of a ``datasets.Dataset``, read from its memory-mapped table when asked for."""

    def __init__(self, dataset: Any, *, label: str) -> None:
        self._dataset = dataset
        self._label = label
        self._turned = _needs_turning(dataset)

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Row]:
        for position, row in enumerate(self._dataset):
            yield _json_row(row, self.locate(position)) if self._turned else row

    def __getitem__(self, position: int, /) -> Row:
        row: Row = self._dataset[position]
        return _json_row(row, self.locate(position)) if self._turned else row

    def locate(self, position: int) -> str:
        """Name, split and row number (from 1)."""
        return f"{self._label} {position + 1}"


def _needs_datasets(folder: Path) -> bool:
    """Whether a folder is a saved dataset or holds Parquet files, in it or in ``data/``."""
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        return True
    return any(next(place.glob("*.parquet"), None) for place in (folder, folder / "data") if place.is_dir())


def _needs_turning(dataset: Any) -> bool:
    """Whether a column's type (told by its Arrow name) has values that JSON does not know, or is unknown."""
    features = dataset.features
    if features is None:
        return True
    types = " ".join(str(kind) for kind in features.arrow_schema.types)
    return any(name in types for name in _TURNED_TYPES)


def _json_row(row: Mapping[str, Any], where: str) -> Row:
    return {name: _json_value(value, name, where) for name, value in row.items()}


def _json_value(value: Any, column: str, where: str) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return str(value)
        case list() | tuple():
            return [_json_value(item, column, where) for item in value]
        case Mapping():
            return {str(key): _json_value(item, column, where) for key, item in value.items()}
    raise DataError(
        what=f"the column {column!r} holds a {type(value).__name__}, which is no JSON value",
        where=where,
        remedy="use a dataset without that column",
    )
