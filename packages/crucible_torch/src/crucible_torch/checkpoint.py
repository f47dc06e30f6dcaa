"""Checkpoint folders: written whole or not at all, verified before they are read.

A checkpoint is a folder with safetensors files, ``state.json`` and ``manifest.json``; the manifest names every
other file with its SHA-256. Nothing is ever pickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crucible_ir.canonical import digest_of
from crucible_ir.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, StorageError
from crucible_ir.refs import CheckpointRef
from crucible_torch.location import sha256_of

__all__ = [
    "FORMAT",
    "Checkpoint",
    "list_checkpoints",
    "read_checkpoint",
    "storage_errors",
    "write_checkpoint",
    "written_folder",
]

FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_MANIFEST = "manifest.json"

Writer = Callable[[Path], None]
"""Writes one file at the path it is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint: its folder, its ``state.json`` and the names of its files."""

    folder: Path
    state: Mapping[str, Any]
    content: Literal["state", "sampler"]
    digest: str
    files: frozenset[str]

    @property
    def ref(self) -> CheckpointRef:
        """The reference that others hold."""
        return CheckpointRef(
            id=self.folder.name,
            digest=self.digest,
            path=str(self.folder),
            content=self.content,
            step=int(self.state["steps"]),
        )


def write_checkpoint(
    root: Path,
    name: str,
    *,
    content: Literal["state", "sampler"],
    writers: Mapping[str, Writer],
    state: Mapping[str, Any],
) -> CheckpointRef:
    """Write ``root/name`` complete and durable, or leave no trace of it.

    Raises:
        ConfigError: the name is not a plain file name.
        ConflictError: the name is taken by a checkpoint of other content.
        StorageError: the disk is full or cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            what=f"{name!r} is not a checkpoint name",
            where="save_state: name",
            remedy="use letters, digits, '.', '_' and '-', not starting with '.' or '-'",
        )
    folder = root / name
    with written_folder(folder) as draft:
        for filename, write in writers.items():
            write(draft / filename)
        (draft / "state.json").write_text(_json(state), encoding="utf-8")
        files = {path.name: _entry(path) for path in sorted(draft.iterdir())}
        manifest = {"format": FORMAT, "content": content, "files": files, "digest": digest_of(files)}
        (draft / _MANIFEST).write_text(_json(manifest), encoding="utf-8")
        if folder.exists():
            return _same_or_conflict(folder, str(manifest["digest"]))
    return CheckpointRef(
        id=name, digest=str(manifest["digest"]), path=str(folder), content=content, step=int(state["steps"])
    )


@contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """A hidden draft beside ``folder`` that takes its name, durably, when the block ends well.

    If ``folder`` exists by then the draft is dropped and ``folder`` stays as it is.

    Raises:
        StorageError: the disk is full or cannot be written; nothing is left behind.
    """
    draft = folder.parent / f".{folder.name}.draft-{os.getpid()}"
    with storage_errors(folder):
        try:
            _drop_stale_drafts(folder)
            draft.mkdir(parents=True)
            yield draft
            if not folder.exists():
                for path in draft.iterdir():
                    _sync(path)
                _sync(draft)
                draft.rename(folder)
                _sync(folder.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def read_checkpoint(folder: Path, *, digest: str | None = None) -> Checkpoint:
    """Check every byte of a checkpoint and read its state.

    Raises:
        NotFoundError: no complete checkpoint there.
        IntegrityError: a file is missing, or is not the one that was written.
        ConfigError: a format that this version does not read.
    """
    manifest_path = folder / _MANIFEST
    if not manifest_path.is_file():
        raise NotFoundError(
            what=f"there is no checkpoint at {folder}",
            where="checkpoint",
            remedy="list the checkpoints of the run and name one of them",
        )
    manifest = _parsed(manifest_path)
    if manifest.get("format") != FORMAT:
        raise ConfigError(
            what=f"checkpoint format {manifest.get('format')!r}, but this version reads {FORMAT}",
            where=str(folder),
            remedy="use the version of crucible-torch that wrote it",
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or digest_of(files) != manifest.get("digest"):
        raise _broken(manifest_path, "does not match its own digest")
    for name, entry in files.items():
        _verify(folder / name, entry)
    if digest is not None and digest != manifest["digest"]:
        raise _broken(folder, f"has digest {manifest['digest']}, but {digest} was asked for")
    return Checkpoint(
        folder=folder,
        state=_parsed(folder / "state.json"),
        content=manifest["content"],
        digest=manifest["digest"],
        files=frozenset(files),
    )


def list_checkpoints(root: Path) -> list[CheckpointRef]:
    """Complete checkpoints under ``root``, by step and then age; drafts and other folders are passed over."""
    if not root.is_dir():
        return []
    found = []
    for manifest_path in root.glob("*/" + _MANIFEST):
        if manifest_path.parent.name.startswith("."):
            continue
        manifest = _parsed(manifest_path)
        state = _parsed(manifest_path.parent / "state.json")
        ref = CheckpointRef(
            id=manifest_path.parent.name,
            digest=manifest["digest"],
            path=str(manifest_path.parent),
            content=manifest["content"],
            step=int(state["steps"]),
        )
        found.append(((ref.step or 0, manifest_path.stat().st_mtime_ns, ref.id), ref))
    return [ref for _, ref in sorted(found, key=lambda item: item[0])]


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turn a disk that cannot be written into a sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(
            what=f"{target} cannot be written ({error})",
            where="checkpoint",
            remedy="free space, or give a folder on another disk; what was complete before is intact",
        ) from error


def _drop_stale_drafts(folder: Path) -> None:
    """Remove drafts of ``folder`` that processes left behind which are no more (or that this one made)."""
    for draft in folder.parent.glob(f".{folder.name}.draft-*"):
        owner = draft.name.rpartition("-")[2]
        if not owner.isdigit() or int(owner) == os.getpid() or not _alive(int(owner)):
            shutil.rmtree(draft, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _same_or_conflict(folder: Path, digest: str) -> CheckpointRef:
    present = read_checkpoint(folder)
    if present.digest == digest:
        return present.ref
    raise ConflictError(
        what=f"there is already a checkpoint {folder.name!r} of other content",
        where=str(folder),
        remedy="save under another name, or remove the old one",
    )


def _verify(path: Path, entry: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise _broken(path, "is missing")
    if path.stat().st_size != entry["size"]:
        raise _broken(path, f"has {path.stat().st_size} bytes instead of {entry['size']}")
    if sha256_of(path) != entry["sha256"]:
        raise _broken(path, "has other bytes than were written")


def _broken(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        what=f"{path} {why}", where="checkpoint", remedy="take an earlier checkpoint, or restore the file"
    )


def _parsed(path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(path, f"is not readable JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise _broken(path, "is not a JSON object")
    return parsed


def _entry(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(path), "size": path.stat().st_size}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
