"""What a run has written: listed by path within its folder, found safely, copied out."""

from __future__ import annotations

import contextlib
import mimetypes
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from crucible_ir import ArtifactRef, ConflictError, EventType, NotFoundError, StorageError, nearest
from crucible_kitchen.runs.folder import RunFolder

__all__ = ["artifact_path", "artifacts_of", "copy_artifact"]

_FOLDER = "inode/directory"
_INTERNAL = frozenset({"lease.lock"})
_MEDIA_TYPES = {".jsonl": "application/jsonl", ".md": "text/markdown", ".log": "text/plain"}


def _visible(path: Path) -> bool:
    return not path.name.startswith(".") and path.name not in _INTERNAL and not path.is_symlink()


def _entries(run: RunFolder) -> Iterator[Path]:
    """Files of the run's folder; a checkpoint is one entry."""
    pending = [run.path]
    while pending:
        folder = pending.pop()
        for path in sorted(folder.iterdir()):
            if not _visible(path):
                continue
            if path.is_dir() and path.parent != run.checkpoints_path:
                pending.append(path)
            else:
                yield path


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(
            item.stat().st_size for item in path.rglob("*") if item.is_file() and not item.is_symlink()
        )
    return path.stat().st_size


def _media_type(path: Path) -> str:
    if path.is_dir():
        return _FOLDER
    return _MEDIA_TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def artifacts_of(run: RunFolder) -> tuple[ArtifactRef, ...]:
    """Everything in the run's folder, sorted by path; digests where an event told them."""
    digests: dict[str, str] = {}
    for event in run.events():
        if event.type == EventType.ARTIFACT_WRITTEN:
            ref = event.data.get("artifact", {})
            if ref.get("digest"):
                digests[Path(str(ref.get("uri", ""))).name] = ref["digest"]
        elif event.type == EventType.CHECKPOINT_SAVED:
            ref = event.data.get("checkpoint", {})
            if ref.get("digest"):
                digests[Path(str(ref.get("path", ""))).name] = ref["digest"]
    found = [
        ArtifactRef(
            id=path.relative_to(run.path).as_posix(),
            uri=str(path),
            media_type=_media_type(path),
            size_bytes=_size(path),
            digest=digests.get(path.name),
            produced_by=run.run_id,
        )
        for path in _entries(run)
    ]
    return tuple(sorted(found, key=lambda ref: ref.id))


def artifact_path(run: RunFolder, artifact: str) -> Path:
    """The file or folder that ``artifact`` names, for sure inside the run's folder.

    Raises:
        NotFoundError: there is no such artifact; paths that lead out of the folder are none.
    """
    parts = PurePosixPath(artifact).parts
    path = run.path.joinpath(*parts)
    inside = (
        parts
        and "\\" not in artifact
        and "\0" not in artifact
        and not PurePosixPath(artifact).is_absolute()
        and all(part != ".." and not part.startswith(".") and part not in _INTERNAL for part in parts)
        and path.exists()
        and path.resolve().is_relative_to(run.path.resolve())
    )
    if inside:
        return path
    known = [ref.id for ref in artifacts_of(run)]
    near = nearest(artifact, known)
    raise NotFoundError(
        what=f"{run.run_id} has no artifact {artifact!r}",
        where="artifact",
        remedy=f"did you mean {near!r}?" if near else "list them with the operation `artifacts`",
    )


def copy_artifact(run: RunFolder, artifact: str, destination: Path) -> Path:
    """Copy an artifact to ``destination`` (a new path, or a folder to put it in) and return the copy.

    Links inside an artifact are left out. The copy appears whole or not at all.

    Raises:
        NotFoundError: there is no such artifact.
        ConflictError: something is there already.
        StorageError: it cannot be written.
    """
    source = artifact_path(run, artifact)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists() or target.is_symlink():
        raise ConflictError(what=f"{target} exists", where="destination", remedy="name another path")
    draft = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(source, draft, ignore=_links)
        else:
            shutil.copyfile(source, draft)
        draft.rename(target)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise StorageError(
            what=f"{target} cannot be written: {error.strerror or error}",
            where="destination",
            remedy="free space or name a folder that can be written",
        ) from error
    return target


def _links(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_symlink()]
