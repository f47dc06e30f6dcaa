"""Where a run can go on: checkpoints that count, checked on disk, and what is left over from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crucible_ir import CheckpointRef, Event, EventType, IntegrityError, NotFoundError, digest_of, nearest
from crucible_kitchen.engine.scope import ResumePoint
from crucible_kitchen.runs.folder import RunFolder

__all__ = ["SavedCheckpoint", "leftovers", "resume_point", "saved_checkpoints", "verify_checkpoint"]

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCheckpoint:
    """A checkpoint that was committed by an event."""

    name: str
    seq: int
    point: ResumePoint


def _saved(event: Event) -> SavedCheckpoint:
    data = event.data
    try:
        checkpoint = CheckpointRef.model_validate(data["checkpoint"])
        point = ResumePoint(
            checkpoint=checkpoint,
            cursor=tuple(int(part) for part in data["cursor"]),
            state=dict(data["state"]),
            metrics_position=int(data["metrics_position"]),
            step=int(data["step"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            what=f"a checkpoint.saved event cannot be read ({error!r})",
            where=f"events.jsonl, line {event.seq}",
            remedy="restore the log from a copy",
        ) from error
    return SavedCheckpoint(name=Path(checkpoint.path).name, seq=event.seq, point=point)


def saved_checkpoints(events: Iterable[Event]) -> list[SavedCheckpoint]:
    """Checkpoints that count, oldest first.

    A resume from an earlier one (or from the beginning) voids those that were saved after it.
    """
    saved: list[SavedCheckpoint] = []
    for event in events:
        if event.type == EventType.CHECKPOINT_SAVED:
            saved.append(_saved(event))
        elif event.type == EventType.RUN_RESUMED:
            source = event.data.get("checkpoint_seq") or 0
            saved = [item for item in saved if item.seq <= source]
    return saved


def _located(run: RunFolder, saved: SavedCheckpoint) -> Path:
    """The checkpoint's folder, also when the home was moved since."""
    path = Path(saved.point.checkpoint.path)
    if not path.is_absolute():
        path = run.path / path
    return path if path.is_dir() else run.checkpoints_path / saved.name


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def verify_checkpoint(folder: Path, digest: str | None = None) -> None:
    """Compare every file of a checkpoint with its ``manifest.json``, and that with ``digest`` if it is given.

    The manifest holds ``files`` (name → ``sha256`` and ``size``) and ``digest``, that of ``files``.

    Raises:
        IntegrityError: a file is missing or holds other bytes; names it.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        files: Mapping[str, Any] = manifest["files"]
        expected = {str(name): (int(e["size"]), str(e["sha256"])) for name, e in files.items()}
        own = str(manifest["digest"])
    except FileNotFoundError:
        raise _corrupt(path, "is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(path, "cannot be read") from error
    if own != digest_of(files) or (digest is not None and own != digest):
        raise _corrupt(path, "is not the one that was saved")
    for name, (size, sha256) in expected.items():
        path = folder / name
        try:
            same = path.stat().st_size == size and _sha256(path) == sha256.removeprefix("sha256:")
        except OSError as error:
            raise _corrupt(path, f"cannot be read ({error.strerror})") from error
        if not same:
            raise _corrupt(path, "does not hold the bytes that were saved")


def _corrupt(path: Path, what: str) -> IntegrityError:
    return IntegrityError(what=what, where=str(path), remedy="restore it from a copy")


def _chosen(saved: list[SavedCheckpoint], name: str | None, run_id: str) -> SavedCheckpoint | None:
    if name is None:
        return saved[-1] if saved else None
    for item in reversed(saved):
        if item.name == name:
            return item
    known = [item.name for item in saved]
    near = nearest(name, known)
    raise NotFoundError(
        what=f"{run_id} has no checkpoint {name!r}",
        where="checkpoint",
        remedy=f"did you mean {near!r}?" if near else f"it has {', '.join(known) or 'none'}",
    )


def resume_point(run: RunFolder, name: str | None = None) -> SavedCheckpoint | None:
    """The checkpoint to go on from: the newest, or the one called ``name``; None begins anew.

    Raises:
        IntegrityError: its bytes are not those that were saved; names the file and an older checkpoint.
        NotFoundError: there is no checkpoint of that name.
    """
    saved = saved_checkpoints(run.events())
    chosen = _chosen(saved, name, run.run_id)
    if chosen is None:
        return None
    folder = _located(run, chosen)
    try:
        verify_checkpoint(folder, chosen.point.checkpoint.digest)
    except IntegrityError as error:
        older = [item.name for item in saved if item.seq < chosen.seq]
        other = (
            f"go on from an older checkpoint: crucible resume {run.run_id} --checkpoint {older[-1]}"
            if older
            else "no older checkpoint is left: start a new run"
        )
        raise IntegrityError(
            what=f"the checkpoint {chosen.name} is corrupt: {error.where} {error.what}",
            where=run.run_id,
            remedy=f"{error.remedy}, or {other}",
        ) from error
    checkpoint = chosen.point.checkpoint.model_copy(update={"path": str(folder)})
    point = ResumePoint(
        checkpoint=checkpoint,
        cursor=chosen.point.cursor,
        state=chosen.point.state,
        metrics_position=chosen.point.metrics_position,
        step=chosen.point.step,
    )
    return SavedCheckpoint(name=chosen.name, seq=chosen.seq, point=point)


def _named_folders(events: Iterable[Event], last_seq: int) -> set[str]:
    """Names of checkpoint folders that an event up to ``last_seq`` speaks of and no later resume voids."""
    named: dict[str, int] = {}
    for event in events:
        if event.seq > last_seq:
            break
        if event.type == EventType.CHECKPOINT_SAVED:
            named[_saved(event).name] = event.seq
        elif event.type == EventType.ARTIFACT_WRITTEN:
            named[Path(str(event.data.get("artifact", {}).get("uri", ""))).name] = event.seq
        elif event.type == EventType.RUN_RESUMED:
            source = event.data.get("checkpoint_seq") or 0
            named = {name: seq for name, seq in named.items() if seq <= source}
    return set(named)


def leftovers(run: RunFolder, source: SavedCheckpoint | None) -> list[Path]:
    """Checkpoint folders that do not count for a run that goes on from ``source``, sorted.

    They were being written when the run ended, or belong to a continuation that is given up.
    """
    if not run.checkpoints_path.is_dir():
        return []
    keep = _named_folders(run.events(), source.seq if source else 0)
    return sorted(path for path in run.checkpoints_path.iterdir() if path.name not in keep)
