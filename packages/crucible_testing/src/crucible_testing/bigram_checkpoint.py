"""Checkpoint folders of the bigram table: arrays, ``state.json``, and a manifest with every file's digest."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crucible_ir import CheckpointRef, ConflictError, IntegrityError, NotFoundError, digest_of

__all__ = ["read_table", "ref_at", "write_table"]


def write_table(
    folder: Path, content: Literal["state", "sampler"], arrays: Mapping[str, NDArray[np.float64]], steps: int
) -> CheckpointRef:
    """Write the folder under another name and give it its own in one step.

    Raises:
        ConflictError: the name is taken by other content.
    """
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(draft / f"{name}.npy", array)
    (draft / "state.json").write_text(json.dumps({"steps": steps}), encoding="utf-8")
    files = {path.name: _entry(path.read_bytes()) for path in sorted(draft.iterdir())}
    manifest = {"content": content, "files": files, "digest": digest_of(files)}
    (draft / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    if not folder.exists():
        draft.rename(folder)
    shutil.rmtree(draft, ignore_errors=True)
    ref = ref_at(folder)
    if ref.digest != manifest["digest"]:
        raise ConflictError(
            what=f"{folder.name!r} is there already", where="save", remedy="take another name"
        )
    return ref


def read_table(ref: CheckpointRef) -> dict[str, NDArray[np.float64]]:
    """The arrays by name, every byte checked.

    Raises:
        NotFoundError: no such folder.
        IntegrityError: a file holds other bytes.
    """
    folder = Path(ref.path)
    if not (folder / "manifest.json").is_file():
        raise NotFoundError(what=f"no checkpoint {folder}", where="checkpoint", remedy="name another")
    files = json.loads((folder / "manifest.json").read_bytes())["files"]
    for name, entry in files.items():
        if _entry((folder / name).read_bytes()) != entry:
            raise IntegrityError(what=f"{name} holds other bytes", where=str(folder), remedy="take another")
    return {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}


def ref_at(folder: Path) -> CheckpointRef:
    """The reference of a complete checkpoint."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    steps = int(json.loads((folder / "state.json").read_bytes())["steps"])
    return CheckpointRef(
        id=folder.name, digest=manifest["digest"], path=str(folder), content=manifest["content"], step=steps
    )


def _entry(data: bytes) -> dict[str, int | str]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
