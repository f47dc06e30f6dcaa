"""Which files a dataset reference means: one file, or those of a folder that hold the split."""

from __future__ import annotations

from pathlib import Path

from crucible_datasets.formats import SUFFIXES, holds_split, split_of, split_stem
from crucible_ir import ConfigError, DataError, DatasetRef, NotFoundError, nearest

__all__ = ["dataset_files", "folder_splits", "joined", "looks_like_path"]


def looks_like_path(name: str) -> bool:
    """Whether a name can only be a path, not a hub id: it ends as data files do, or begins as paths do."""
    return split_stem(Path(name))[1] in SUFFIXES or name.startswith(("/", ".", "~")) or name.count("/") > 1


def joined(names: str, *, where: str) -> list[str]:
    """The names that ``+`` joins, in order: splits (``train+test``) or configurations that are read one after another.

    Raises:
        ConfigError: an empty name, or one that stands twice.
    """
    found = names.split("+")
    if not all(found) or len(set(found)) < len(found):
        raise ConfigError(
            what=f"{names!r} has an empty name or one twice",
            where=where,
            remedy="join each name once, as a+b",
        )
    return found


def folder_splits(folder: Path) -> dict[str, list[Path]]:
    """The data files of a folder (not of folders within it) by the split that they hold, in order of name."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and split_stem(path)[1] in SUFFIXES and not path.name.startswith((".", "_")):
            found.setdefault(split_of(path), []).append(path)
    return found


def _no_split(where: str, split: str, there: list[str]) -> NotFoundError:
    near = nearest(split, there)
    listed = ", ".join(map(repr, there)) or "none"
    return NotFoundError(
        what=f"no split {split!r}; there are: {listed}",
        where=where,
        remedy=f"did you mean split={near}?" if near else "name one of them as the split",
    )


def dataset_files(path: Path, ref: DatasetRef) -> list[Path]:
    """The files that hold ``ref.split``, in reading order.

    A single file is the split ``train`` and the split its own name says; asking it for another is an error, so
    that a test set is never the training file under another name. A folder holds one file per split
    (``test.jsonl``), or numbered parts of it (``test-00000-of-00002.jsonl``).

    Raises:
        NotFoundError: no such path, or no such split in it.
        DataError: one split in files of two formats.
    """
    if not path.exists():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
        raise NotFoundError(
            what="no such file or folder",
            where=str(path),
            remedy=f"did you mean {str(path.parent / near)!r}?" if near else "check the path of the dataset",
        )
    if not path.is_dir():
        by_split = split_stem(path)[1] == ".json" or ref.format == "json"
        if by_split or holds_split(path, ref.split):
            return [path]
        raise _no_split(str(path), ref.split, sorted({"train", split_of(path)}))
    splits = folder_splits(path)
    if ref.split not in splits:
        raise _no_split(str(path), ref.split, sorted(splits))
    files = splits[ref.split]
    stems = {split_stem(file) for file in files}
    parts = {suffix for _, suffix in stems}
    plain = [file for file in files if split_stem(file)[0] == ref.split]
    if len(parts) > 1 or len({stem for stem, _ in stems}) < len(files) or (plain and len(files) > 1):
        raise DataError(
            what=f"several files hold the split {ref.split!r}: {', '.join(file.name for file in files)}",
            where=str(path),
            remedy="name one file, or keep one form of the split in the folder",
        )
    return files
