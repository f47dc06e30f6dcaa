"""The local dataset store: files, folders and memory; nothing outside this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from crucible_datasets.exclusion import Load
from crucible_datasets.files import dataset_files, joined, looks_like_path
from crucible_datasets.formats import MAX_LINE_BYTES
from crucible_datasets.mapping import FieldMapping
from crucible_datasets.memory import MemoryDataset, MemoryDatasets
from crucible_datasets.snapshots import RowStream, nothing_in, snapshot_of, snapshot_of_stream
from crucible_datasets.sources import HeldRows, PlacedRow, read_files
from crucible_ir import ConfigError, DatasetRef, DatasetSnapshot

__all__ = ["LocalDatasetStore"]


class LocalDatasetStore:
    """Loads JSONL, CSV and JSON files (plain or gzip), folders with one file per split, and memory datasets.

    Relative paths start at ``base_folder`` (the working folder if None). It fits the port ``DatasetStore``.
    """

    def __init__(
        self,
        *,
        base_folder: str | Path | None = None,
        memory: Iterable[MemoryDataset] = (),
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self._base_folder = None if base_folder is None else Path(base_folder).expanduser()
        self._memory = MemoryDatasets(memory)
        self._max_line_bytes = max_line_bytes

    def add(self, dataset: MemoryDataset) -> None:
        """Register a memory dataset under its name.

        Raises:
            ConflictError: another one has this name.
        """
        self._memory.add(dataset)

    def path_of(self, ref: DatasetRef) -> Path:
        """The path that ``ref.id`` names, ``~`` and ``base_folder`` applied."""
        path = Path(ref.id).expanduser()
        return path if self._base_folder is None else self._base_folder / path

    def holds(self, ref: DatasetRef) -> bool:
        """Whether ``ref`` means something local: a registered name or a path that exists."""
        if ref.source in ("file", "memory"):
            return True
        return ref.source == "auto" and (ref.id in self._memory or self.path_of(ref).exists())

    def load(self, ref: DatasetRef, *, load_excluded: Load | None = None) -> DatasetSnapshot:
        """Rows of ``ref`` in order, with its digests filled in; see ``snapshot_of`` and ``snapshot_of_stream``.

        A dataset whose rows are excluded is loaded by ``load_excluded``, or here.

        Raises:
            NotFoundError: no such path, split or registered name.
            DataError: a row that cannot be read (file, line and column named), or nothing left after mapping.
            ConfigError: a mapping, a format or a source that does not fit.
            IntegrityError: ``ref`` carries a digest that the data do not have.
        """
        FieldMapping.parse(ref.mapping)
        load = load_excluded or self.load
        placed = self._placed(ref)
        if ref.streaming:
            return snapshot_of_stream(placed, ref, load=load)
        return snapshot_of(HeldRows.of(placed), ref, load=load)

    def stream(self, ref: DatasetRef, *, load_excluded: Load | None = None) -> RowStream:
        """Rows of ``ref`` one after the other, with bounded memory; ``load_excluded`` as for ``load``.

        Raises:
            NotFoundError, DataError, ConfigError: as ``load``; a bad row when it is reached.
        """
        return RowStream(self._placed(ref), ref, load=load_excluded or self.load)

    def check(self, ref: DatasetRef, *, check_excluded: Callable[[DatasetRef], None] | None = None) -> None:
        """Look whether ``load`` can begin: the data exist, the mapping fits, the first rows are readable.

        A dataset whose rows are excluded is looked at by ``check_excluded``, or here.

        Raises:
            NotFoundError, DataError, ConfigError: as ``load``.
        """
        exclude = FieldMapping.parse(ref.mapping).exclude
        if exclude is not None:
            (check_excluded or self.check)(exclude.dataset)
        head = ref.model_copy(
            update={
                "mapping": {key: value for key, value in ref.mapping.items() if key != "exclude"},
                "limit": 1,
                "skip": 0,
                "shuffle_seed": None,
                "digest": None,
                "order_digest": None,
                "transform_digest": None,
            }
        )
        rows = self.stream(head)
        if next(rows, None) is None:
            raise nothing_in(rows, ref)

    def _in_memory(self, ref: DatasetRef) -> bool:
        if ref.source == "memory":
            return True
        return ref.source == "auto" and ref.id in self._memory and not self.path_of(ref).exists()

    def _placed(self, ref: DatasetRef) -> Iterator[PlacedRow]:
        """Rows of every split that ``ref.split`` joins; what is not there is said before the first is read."""
        parts = [ref.model_copy(update={"split": name}) for name in joined(ref.split, where="dataset.split")]
        if self._in_memory(ref):
            held = [
                (f"{ref.id}[{part.split}], row", self._memory.get(ref.id).rows(part.split)) for part in parts
            ]
            return (
                PlacedRow(label, number, row)
                for label, rows in held
                for number, row in enumerate(rows, start=1)
            )
        files = [(part, self._files(part)) for part in parts]
        return chain.from_iterable(
            read_files(paths, part, max_line_bytes=self._max_line_bytes) for part, paths in files
        )

    def _files(self, ref: DatasetRef) -> list[Path]:
        path = self.path_of(ref)
        if ref.source == "hub" or (
            ref.source == "auto" and not path.exists() and not looks_like_path(ref.id)
        ):
            raise ConfigError(
                what=f"{ref.id!r} is no file or folder here, and the local store reads no hub",
                where="dataset.id",
                remedy="check the path, or choose dataset_store = 'huggingface' for a hub id (the manifest dev has it)",
            )
        if ref.source == "store":
            raise ConfigError(
                what="there is no versioned dataset store",
                where="dataset.source",
                remedy="name a file or a hub id",
            )
        return dataset_files(path, ref)
