"""File formats: each turns one file into numbered rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from crucible_datasets.formats.csv_table import read_csv
from crucible_datasets.formats.json_document import read_json
from crucible_datasets.formats.jsonl import read_jsonl
from crucible_datasets.formats.lines import MAX_LINE_BYTES, read_lines
from crucible_datasets.formats.names import SUFFIXES, holds_split, split_of, split_stem
from crucible_ir import ConfigError, DatasetRef, Row

__all__ = [
    "MAX_LINE_BYTES",
    "SUFFIXES",
    "format_of",
    "holds_split",
    "read_csv",
    "read_json",
    "read_jsonl",
    "read_lines",
    "read_rows",
    "split_of",
    "split_stem",
]

_READERS: Mapping[str, Callable[..., Iterator[tuple[int, Row]]]] = MappingProxyType(
    {"jsonl": read_jsonl, "csv": read_csv}
)


def format_of(path: Path, ref: DatasetRef) -> str:
    """Format of a file: what ``ref.format`` says, otherwise by its name.

    Raises:
        ConfigError: neither says.
    """
    if ref.format != "auto":
        return ref.format
    found = SUFFIXES.get(split_stem(path)[1])
    if found is None:
        raise ConfigError(
            what=f"the format of {path.name!r} cannot be told from its name",
            where="format",
            remedy="set format to jsonl, csv or json",
        )
    return found


def read_rows(
    path: Path, ref: DatasetRef, *, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, Row]]:
    """Number and content of each row of one file; the number is that of its line (JSON documents: of the row).

    Raises:
        DataError: a row that cannot be read, named with its line.
        ConfigError: a format that is read elsewhere (Parquet) or cannot be told.
        NotFoundError: no such file or split.
    """
    format_name = format_of(path, ref)
    if format_name == "json":
        return read_json(path, split=ref.split)
    if format_name == "parquet":
        raise ConfigError(
            what="Parquet is read by the Hugging Face dataset store",
            where="format",
            remedy="choose dataset_store = 'huggingface', as the manifest dev does "
            "(pip install 'crucible-kitchen[datasets]')",
        )
    return _READERS[format_name](path, max_line_bytes=max_line_bytes)
