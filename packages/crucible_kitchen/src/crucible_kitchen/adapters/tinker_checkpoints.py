"""Folders that stand for checkpoints which lie with the service: where each is, checked before it is used."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from crucible_ir import CheckpointRef, ConfigError, ConflictError, Contract, IntegrityError, NotFoundError
from crucible_ir.canonical import canonical_json, digest_of
from crucible_kitchen.atomic import storage_error

__all__ = ["SCHEME", "Located", "Pointer", "checked_name", "list_pointers", "locate", "write_pointer"]

SCHEME = "tinker://"
_FILE, _MANIFEST = "tinker.json", "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class Pointer(Contract):
    """What ``tinker.json`` holds."""

    path: str = Field(pattern=f"^{SCHEME}")
    """Where the service keeps the weights."""
    base_model: str
    content: Literal["state", "sampler"]
    step: int = Field(ge=0)
    """Optimiser steps applied."""
    spent: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Tokens that the run had used by then, by model and kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A checkpoint of the service, and what a folder of this machine says of it, if there is one."""

    path: str
    step: int
    pointer: Pointer | None = None
    folder: Path | None = None


def checked_name(name: str) -> str:
    """The name itself, if a checkpoint can have it.

    Raises:
        ConfigError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            what=f"{name!r} is not a checkpoint name",
            where="save_state: name",
            remedy="use letters, digits, '.', '_' and '-', not starting with '.' or '-'",
        )
    return name


def write_pointer(root: Path, name: str, pointer: Pointer) -> CheckpointRef:
    """Make the folder ``root/name`` in one rename, complete and durable; its reference has the service's path.

    Raises:
        ConflictError: the name is taken by a checkpoint of other content.
        StorageError: it cannot be written.
    """
    folder = root / name
    body = canonical_json(pointer.model_dump(mode="json")).encode()
    files = {_FILE: {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}}
    digest = digest_of(files)
    ref = CheckpointRef(id=name, digest=digest, path=pointer.path, content=pointer.content, step=pointer.step)
    if folder.exists():
        if _ref(folder) == ref:
            return ref
        raise ConflictError(
            what=f"the checkpoint {name} exists with other content",
            where=str(folder),
            remedy="take another name",
        )
    draft = root / f".{name}.draft-{os.getpid()}"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _write(draft / _FILE, body)
        _write(draft / _MANIFEST, json.dumps({"files": files, "digest": digest}).encode())
        draft.rename(folder)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise storage_error(error, folder) from error
    return ref


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def list_pointers(root: Path) -> list[CheckpointRef]:
    """References of the complete folders under ``root``, by step, then name."""
    found = [_ref(path.parent) for path in root.glob(f"[!.]*/{_FILE}")]
    return sorted(found, key=lambda ref: (ref.step or 0, ref.id))


def locate(ref: CheckpointRef) -> Located:
    """Where the service has what ``ref`` names: by its own path, or by a folder of this machine.

    Raises:
        NotFoundError: there is no such folder.
        IntegrityError: the folder does not hold what was written.
    """
    if ref.path.startswith(SCHEME):
        return Located(path=ref.path, step=ref.step or 0)
    folder = Path(ref.path)
    pointer, digest = _read(folder)
    if ref.digest is not None and ref.digest != digest:
        raise _corrupt(folder / _MANIFEST)
    return Located(path=pointer.path, step=pointer.step, pointer=pointer, folder=folder)


def _ref(folder: Path) -> CheckpointRef:
    pointer, digest = _read(folder)
    return CheckpointRef(
        id=folder.name, digest=digest, path=pointer.path, content=pointer.content, step=pointer.step
    )


def _read(folder: Path) -> tuple[Pointer, str]:
    try:
        body = (folder / _FILE).read_bytes()
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_bytes())
        expected = manifest["files"][_FILE]["sha256"]
    except FileNotFoundError:
        raise NotFoundError(
            what=f"there is no checkpoint of the service at {folder}",
            where="checkpoint",
            remedy="list the checkpoints of the run and name one of them",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _corrupt(folder / _MANIFEST) from error
    if hashlib.sha256(body).hexdigest() != expected or digest_of(manifest["files"]) != manifest.get("digest"):
        raise _corrupt(folder / _FILE)
    return Pointer.parse(json.loads(body), where=str(folder / _FILE)), str(manifest["digest"])


def _corrupt(path: Path) -> IntegrityError:
    return IntegrityError(
        what="does not hold the bytes that were saved", where=str(path), remedy="restore it from a copy"
    )
