"""Adapters of the service as files on this machine, in the form that ``peft`` reads."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from crucible_ir.errors import ConfigError, ConflictError, CrucibleError, IntegrityError, ServiceError
from crucible_kitchen.adapters.tinker_checkpoints import Located
from crucible_kitchen.adapters.tinker_connection import Connection
from crucible_kitchen.adapters.tinker_errors import explained
from crucible_kitchen.atomic import storage_error

__all__ = ["download", "export_adapter"]

_KEPT_S = 3600
_ANSWER_S = 60.0
_BLOCK = 1 << 20


def export_adapter(connection: Connection, found: Located, destination: Path) -> Path:
    """Let the service write the adapter of a saved state as files, and fetch them.

    The folder appears whole or not at all. What the service wrote for it is deleted again.

    Raises:
        ConfigError: ``found`` are sampler weights, which the service does not hand out.
        ConflictError: ``destination`` exists and is not empty.
        ServiceError: the service failed.
    """
    if "/sampler_weights/" in found.path:
        raise ConfigError(
            what=f"the service does not hand out sampler weights ({found.path})",
            where="export",
            remedy="name a checkpoint of the same run, which holds the same weights: --weights step_…",
        )
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConflictError(
            what=f"{destination} exists and is not empty", where="export", remedy="name another folder"
        )
    written = connection.follow(_written(connection, found.path)).result()
    try:
        urls = connection.rest(lambda client: client.get_external_weights_urls(written), where="export").urls
        return download(urls, destination)
    finally:
        with contextlib.suppress(CrucibleError):  # the service deletes it by itself within the hour
            connection.rest(lambda client: client.delete_checkpoint_from_tinker_path(written), where="export")


async def _written(connection: Connection, path: str) -> str:
    """The path of the files that the service wrote of a state."""
    sdk: Any = await connection.ask(
        lambda service: service.create_training_client_from_state(path), where="export", idempotent=False
    )
    try:
        saved = sdk.save_weights_external(f"export-{uuid4().hex[:12]}", ttl_seconds=_KEPT_S)
        return str((await asyncio.wrap_future(saved.future())).path)
    except Exception as error:
        raise explained(error, where="export", idempotent=False) from error


def download(urls: Mapping[str, str], destination: Path) -> Path:
    """Fetch files by their relative names into a folder, which appears in one rename.

    Raises:
        IntegrityError: a name that leads out of the folder, or an address that is none of the web.
        ServiceError: a file could not be fetched whole.
        StorageError: it cannot be written.
    """
    for name, url in urls.items():
        parts = PurePosixPath(name).parts
        outside = not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name
        if outside or urlsplit(url).scheme not in ("http", "https"):
            raise IntegrityError(
                what=f"the service names a file {name!r} at a {urlsplit(url).scheme!r} address",
                where="export",
                remedy="do not trust this export",
            )
    draft = destination.with_name(f".{destination.name}.draft-{os.getpid()}")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        for name, url in sorted(urls.items()):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            with (draft / name).open("wb") as file:
                for block in _blocks(name, url):
                    file.write(block)
        if destination.exists():
            destination.rmdir()
        draft.rename(destination)
    except OSError as error:
        raise storage_error(error, destination) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return destination


def _blocks(name: str, url: str) -> Iterator[bytes]:
    """A file of the service in pieces.

    Raises:
        ServiceError: it cannot be fetched, or ended before all of it was there.
    """
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:
            length, there = answer.length, 0
            while block := answer.read(_BLOCK):
                there += len(block)
                yield block
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else type(error).__name__
        raise _not_fetched(name, str(reason)) from error
    if length is not None and there != length:
        raise _not_fetched(name, f"{there} of {length} bytes came")


def _not_fetched(name: str, reason: str) -> ServiceError:
    return ServiceError(
        what=f"{name!r} of the export could not be fetched ({reason})",
        where="export",
        remedy="try again later",
        retryable=True,
    )
