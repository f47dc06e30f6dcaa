"""What a run is created from, and the folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crucible_ir import ConfigError, EventType, Experiment, Problem, StorageError
from crucible_ir.redaction import Redactor
from crucible_kitchen.manifests.manifest import Manifest
from crucible_kitchen.runs.folder import RunFolder, RunSettings

__all__ = ["CreateOptions", "KeyRing", "refuse_secrets", "write_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOptions:
    """What is known about a run besides its experiment.

    ``idempotency_key``: creating again with the same key gives the same run.
    """

    idempotency_key: str | None = None
    actor: str = "local"
    parent_run: str | None = None
    tags: tuple[str, ...] = ()


def refuse_secrets(experiment: Experiment, redactor: Redactor) -> None:
    """Look for secrets in what would be written down for good.

    Raises:
        ConfigError: names each place that holds one, never the value.
    """
    plain = experiment.model_dump(mode="json")
    places = list(_changed(plain, redactor(plain), ""))
    if places:
        raise ConfigError(
            problems=[
                Problem(
                    path=place,
                    message="holds a secret, which would be stored with the run",
                    remedy='set an environment variable and write { env = "ITS_NAME" } in a manifest',
                )
                for place in places
            ]
        )


def _changed(before: object, after: object, path: str) -> Iterator[str]:
    """Paths at which two JSON values of the same shape differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        if before.keys() != after.keys():
            yield path or "experiment"
            return
        for key in before:
            yield from _changed(before[key], after[key], f"{path}.{key}" if path else str(key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _changed(old, new, f"{path}[{index}]")
    elif before != after:
        yield path


def write_run(
    path: Path, experiment: Experiment, manifest: Manifest, options: CreateOptions, settings: RunSettings
) -> Path:
    """Make the folder ``path`` with ``experiment.json`` and the first event, and return it.

    Raises:
        StorageError: nothing more can be written; no part of the folder is left.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        with (draft / "experiment.json").open("wb") as stream:
            stream.write(experiment.model_dump_json(indent=2).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        data = {
            "experiment_id": experiment.id,
            "config_digest": experiment.config_digest,
            "recipe": experiment.recipe,
            "workflow": experiment.workflow,
            "actor": options.actor,
            "parent_run": options.parent_run,
            "tags": list(options.tags),
            "idempotency_key": options.idempotency_key,
            "manifest": manifest.model_dump(mode="json"),
            "folder": str(Path.cwd()),
        }
        log = RunFolder(path, settings).log_at(draft / "events.jsonl")
        try:
            log.append(EventType.RUN_CREATED, data)
        finally:
            log.close()
        draft.rename(path)
        return path
    except OSError as error:
        raise _refusal(path, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _refusal(path: Path, error: OSError) -> StorageError:
    return StorageError(
        what=f"the run cannot be written: {error.strerror or error}",
        where=str(path),
        remedy="free space or make the folder writable",
    )


class KeyRing:
    """Idempotency keys: one small file per key under ``runs/.keys``, written before the run it names."""

    def __init__(self, runs: Path) -> None:
        self._folder = runs / ".keys"

    @contextlib.contextmanager
    def hold(self, key: str) -> Iterator[Path]:
        """The file of ``key``, which nobody else may look at for the time of the block."""
        path = self._folder / hashlib.sha256(key.encode()).hexdigest()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _refusal(path, error) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise _refusal(path, error) from error
            yield path
        finally:
            os.close(fd)
