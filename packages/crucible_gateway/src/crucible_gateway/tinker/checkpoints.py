"""Checkpoints under their Tinker paths: what a name stands for, when it expires, and who may see it."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from crucible_gateway.tinker.store import StateStore
from crucible_ir import CheckpointRef, ConfigError, ConflictError, NotFoundError, StorageError, nearest

__all__ = ["KINDS", "CheckpointLibrary", "Kind", "model_folder", "parse_path", "saved_ref", "tinker_path"]

Kind = Literal["training", "sampler", "external"]
KINDS: dict[str, Kind] = {"weights": "training", "sampler_weights": "sampler", "external_weights": "external"}
_SEGMENTS = {kind: segment for segment, kind in KINDS.items()}
_SCHEME = "tinker://"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_LONGEST_TTL_S = 10 * 366 * 24 * 3600


def tinker_path(model_id: str, kind: Kind, name: str) -> str:
    """``tinker://<model id>/<weights|sampler_weights|external_weights>/<name>``."""
    return f"{_SCHEME}{model_id}/{_SEGMENTS[kind]}/{name}"


def parse_path(path: str) -> tuple[str, Kind, str]:
    """Model id, kind and name of a Tinker path.

    Raises:
        ConfigError: it is none.
    """
    parts = path.removeprefix(_SCHEME).split("/")
    if not path.startswith(_SCHEME) or len(parts) != 3 or parts[1] not in KINDS:
        raise ConfigError(
            what=f"{path!r} is no checkpoint path",
            where="path",
            remedy="give tinker://MODEL_ID/weights/NAME or tinker://MODEL_ID/sampler_weights/NAME",
        )
    return parts[0], KINDS[parts[1]], parts[2]


def model_folder(state: Path, model_id: str) -> Path:
    """Where the checkpoints of a model lie."""
    return state / "models" / re.sub(r"[^A-Za-z0-9._-]", "-", model_id)


def saved_ref(state: Path, model_id: str, value: Mapping[str, Any]) -> CheckpointRef:
    """The reference that was kept as ``value``, its folder where it is now (the state folder may have moved)."""
    ref = CheckpointRef.parse(dict(value))
    return ref.model_copy(update={"path": str(model_folder(state, model_id) / Path(ref.path).name)})


class CheckpointLibrary:
    """All named checkpoints of a server by path, newest last. Files are copied, measured and removed in threads.

    An entry is a JSON object: ``model_id``, ``kind``, ``name``, ``seq`` (the request that made it), ``base_model``,
    ``lora``, ``ref``, ``created``, ``expires``, ``public``, ``size``, ``user_metadata``.
    """

    def __init__(self, store: StateStore, *, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self._entries = dict(store.records("checkpoints"))
        self._copying: dict[str, tuple[str, Path]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def check_name(self, model_id: str, kind: Kind, name: str | None, *, overwrite: bool) -> str:
        """The path that ``name`` will have.

        Raises:
            ConfigError: a name that cannot be part of a path.
            ConflictError: it is taken, or a copy to it is under way.
        """
        if not name or not _NAME.fullmatch(name):
            raise ConfigError(
                what=f"{name!r} cannot name a checkpoint",
                where="name",
                remedy="use letters, digits, dots, dashes and underscores, 200 at most",
            )
        path = tinker_path(model_id, kind, name)
        if path in self._copying or (not overwrite and self._live(path) is not None):
            raise ConflictError(
                what=f"{path} is there already", where="name", remedy="take another name, or overwrite=True"
            )
        return path

    def expiry(self, ttl_seconds: int | None) -> str | None:
        """The time, as ISO text, at which something made now with that time to live expires.

        Raises:
            ConfigError: not a positive number of seconds up to ten years.
        """
        if ttl_seconds is None:
            return None
        if not 0 < ttl_seconds <= _LONGEST_TTL_S:
            raise ConfigError(
                what=f"ttl_seconds = {ttl_seconds}",
                where="ttl_seconds",
                remedy="give 1 s to ten years, or none",
            )
        return (self._clock() + timedelta(seconds=ttl_seconds)).isoformat()

    def made_by(self, model_id: str, seq: int) -> str | None:
        """The path of the checkpoint that request ``seq`` of a model made, if it made one."""
        for path, entry in self._entries.items():
            if entry["model_id"] == model_id and entry["seq"] == seq:
                return path
        return None

    async def add(self, path: str, entry: Mapping[str, Any]) -> None:
        """Keep an entry, in place of one that it overwrites; ``size`` is measured."""
        ref = saved_ref(self._store.folder, str(entry["model_id"]), entry["ref"])
        size = await asyncio.to_thread(_folder_size, Path(ref.path))
        kept = {"created": self._clock().isoformat(), "public": False, **entry, "size": size}
        self._store.put("checkpoints", path, str(entry["model_id"]), kept)
        before = self._entries.pop(path, None)
        self._entries[path] = kept
        if before is not None:
            await self._remove_files(before)

    def find(self, path: str) -> dict[str, Any]:
        """The entry of ``path``.

        Raises:
            ConfigError: it is no checkpoint path.
            NotFoundError: there is none, or it has expired; names the nearest.
        """
        parse_path(path)
        entry = self._live(path)
        if entry is None:
            near = nearest(path, self._entries)
            raise NotFoundError(
                what=f"there is no checkpoint {path}",
                where="path",
                remedy=f"did you mean {near}?" if near else "list_checkpoints() tells those there are",
            )
        return entry

    def ref(self, path: str) -> CheckpointRef:
        """The backend's reference of ``path``; raises as ``find``."""
        entry = self.find(path)
        return saved_ref(self._store.folder, str(entry["model_id"]), entry["ref"])

    def change(self, path: str, **values: Any) -> None:
        """Change fields of an entry; raises as ``find``."""
        entry = {**self.find(path), **values}
        self._entries[path] = entry
        self._store.put("checkpoints", path, str(entry["model_id"]), entry)

    async def copy(self, path: str, model_id: str, *, ttl_seconds: int | None) -> str:
        """A copy of the checkpoint under another model id; returns its path.

        Raises:
            ConfigError, NotFoundError, ConflictError: as ``find``, ``check_name`` and ``expiry``; nothing was copied.
            StorageError: the files cannot be copied; none are left.
        """
        entry = self.find(path)
        self.expiry(ttl_seconds)
        target = self.check_name(model_id, entry["kind"], entry["name"], overwrite=False)
        source = Path(self.ref(path).path)
        folder = model_folder(self._store.folder, model_id) / f"copy-{uuid4().hex[:12]}"
        self._copying[target] = model_id, folder
        try:
            await asyncio.to_thread(_copied, source, folder)
            moved = {**entry["ref"], "path": str(folder)}
            copied = {**entry, "ref": moved, "model_id": model_id, "seq": -1, "public": False}
            now = {"created": self._clock().isoformat(), "expires": self.expiry(ttl_seconds)}
            await self.add(target, {**copied, **now})
        except Exception:
            if target not in self._entries:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        finally:
            del self._copying[target]
        return target

    async def delete(self, path: str) -> None:
        """Remove a checkpoint and its files; raises as ``find``."""
        entry = self.find(path)
        await self._remove(path, entry)

    async def sweep(self) -> list[str]:
        """Remove what has expired; returns its paths."""
        now = self._clock()
        gone = [(path, entry) for path, entry in self._entries.items() if _expired(entry, now)]
        return [path for path, entry in gone if await self._remove(path, entry)]

    def listed(self, model_id: str | None = None) -> list[dict[str, Any]]:
        """Checkpoints of one run or of all, oldest first, as the SDK reads them."""
        now = self._clock()
        found = [
            (entry["created"], path, entry)
            for path, entry in self._entries.items()
            if model_id in (None, entry["model_id"]) and not _expired(entry, now)
        ]
        return [_described(path, entry) for _, path, entry in sorted(found, key=lambda item: item[:2])]

    def refs_of(self, model_id: str) -> list[dict[str, Any]]:
        """What is kept of the references of a model's checkpoints, also of copies that are under way."""
        kept = [entry["ref"] for entry in self._entries.values() if entry["model_id"] == model_id]
        return kept + [{"path": str(folder)} for id, folder in self._copying.values() if id == model_id]

    def sessions(self) -> set[str]:
        """Sessions under whose models there is a checkpoint, or a copy is under way."""
        models = [entry["model_id"] for entry in self._entries.values()]
        models += [model_id for model_id, _ in self._copying.values()]
        return {str(model_id).partition(":")[0] for model_id in models}

    def _live(self, path: str) -> dict[str, Any] | None:
        entry = self._entries.get(path)
        return None if entry is None or _expired(entry, self._clock()) else entry

    async def _remove(self, path: str, entry: dict[str, Any]) -> bool:
        """Remove an entry with its files; whether it was still that of ``path``."""
        if self._entries.get(path) is not entry:
            return False
        self._store.drop("checkpoints", path)
        del self._entries[path]
        await self._remove_files(entry)
        return True

    async def _remove_files(self, entry: Mapping[str, Any]) -> None:
        ref = saved_ref(self._store.folder, str(entry["model_id"]), entry["ref"])
        await asyncio.to_thread(shutil.rmtree, ref.path, ignore_errors=True)


def _copied(source: Path, folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, folder)
    except OSError as error:  # shutil.Error is one
        raise StorageError(
            what=f"the checkpoint cannot be copied ({error})",
            where=str(source),
            remedy="free some space on the disk; or is it being deleted?",
        ) from error


def _folder_size(folder: Path) -> int:
    """Bytes of all files under ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _expired(entry: Mapping[str, Any], now: datetime) -> bool:
    expires = entry.get("expires")
    return expires is not None and datetime.fromisoformat(expires) <= now


def _described(path: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "checkpoint_id": path.removeprefix(_SCHEME).partition("/")[2],
        "checkpoint_type": entry["kind"],
        "time": entry["created"],
        "tinker_path": path,
        "size_bytes": entry.get("size"),
        "public": bool(entry.get("public")),
        "user_metadata": entry.get("user_metadata"),
        "expires_at": entry.get("expires"),
    }
