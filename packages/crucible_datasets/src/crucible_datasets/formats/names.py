"""What a file's name says: its format and the split it holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

__all__ = ["SUFFIXES", "holds_split", "split_of", "split_stem"]

SUFFIXES: Mapping[str, str] = MappingProxyType(
    {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".json": "json", ".parquet": "parquet"}
)
"""Format by the suffix of the name; ``.gz`` after it is allowed."""

_SHARD = re.compile(r"(?P<split>.+)-\d+-of-\d+")


def split_stem(path: Path) -> tuple[str, str]:
    """Name without suffixes, and suffix without ``.gz``: ``train.jsonl.gz`` → ``("train", ".jsonl")``."""
    name = path.name.removesuffix(".gz")
    suffix = Path(name).suffix
    return name.removesuffix(suffix), suffix.lower()


def split_of(path: Path) -> str:
    """The split that a file of a folder holds: ``test.csv`` and ``test-00000-of-00002.csv`` hold ``test``."""
    stem = split_stem(path)[0]
    shard = _SHARD.fullmatch(stem)
    return shard["split"] if shard else stem


def holds_split(path: Path, split: str) -> bool:
    """Whether a file named for itself holds ``split``: any file is ``train``, and is what its name says."""
    return split in ("train", split_of(path))
