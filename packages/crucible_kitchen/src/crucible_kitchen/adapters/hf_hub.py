"""Files of Hugging Face repositories through ``huggingface_hub``."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from crucible_ir import IntegrityError
from crucible_kitchen.adapters.hf_client import HubErrors, NoProgressBars, hub_token, missing_sdk
from crucible_train.ports import RepoType

__all__ = ["HuggingFaceHub"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20


class HuggingFaceHub:
    """Downloads files and whole repositories into the Hugging Face cache; the token comes from HF_TOKEN alone.

    A transfer that breaks off leaves nothing under the file's name and goes on where it stopped at the next call.
    Files whose SHA-256 the hub tells (all large ones) are checked once, when they arrive. ``HF_HUB_OFFLINE=1`` serves
    from the cache only.

    Raises:
        AdapterError: ``huggingface_hub`` is not installed.
    """

    required_modules: ClassVar[tuple[str, ...]] = ("huggingface_hub",)

    def __init__(self, *, cache_dir: str | Path | None = None, endpoint: str | None = None) -> None:
        if importlib.util.find_spec("huggingface_hub") is None:
            raise missing_sdk(
                group="crucible.hub_client", name="huggingface", package="huggingface-hub", extra="hub"
            )
        self._cache_dir = None if cache_dir is None else Path(cache_dir).expanduser()
        self._endpoint = endpoint

    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint, token=hub_token(), library_name="crucible")

    def _page(self, repo_id: str, repo_type: RepoType) -> str:
        from huggingface_hub import constants

        kind = "datasets/" if repo_type == "dataset" else ""
        return f"{self._endpoint or constants.ENDPOINT}/{kind}{repo_id}"

    def _errors(
        self, repo_id: str, repo_type: RepoType, *, revision: str | None, filename: str = ""
    ) -> HubErrors:
        where = repo_id + (f"@{revision}" if revision else "") + (f", {filename}" if filename else "")
        return HubErrors(where, page=self._page(repo_id, repo_type))

    def _blobs(self, repo_id: str, repo_type: RepoType) -> Path:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        folder = repo_folder_name(repo_id=repo_id, repo_type=repo_type)
        return Path(self._cache_dir or constants.HF_HUB_CACHE) / folder / "blobs"

    def download(
        self, repo_id: str, filename: str, *, revision: str | None = None, repo_type: RepoType = "model"
    ) -> Path:
        """Path of one file in the cache, downloaded unless it is there.

        Raises:
            NotFoundError: no such repository, revision or file.
            ConfigError: gated, and HF_TOKEN is missing or has no access.
            ServiceError: the hub failed or cannot be reached.
            IntegrityError: what arrived is not what the hub announced; it is deleted.
        """
        from huggingface_hub import utils

        with self._errors(repo_id, repo_type, revision=revision, filename=filename), NoProgressBars(utils):
            before = _names(self._blobs(repo_id, repo_type))
            path = Path(
                self._api().hf_hub_download(
                    repo_id, filename, revision=revision, repo_type=repo_type, cache_dir=self._cache_dir
                )
            )
            _verify(path, before)
            return path

    def snapshot(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        repo_type: RepoType = "model",
        patterns: Sequence[str] | None = None,
    ) -> Path:
        """Folder with the files that match ``patterns`` (shell style; None: all).

        Raises:
            NotFoundError, ConfigError, ServiceError, IntegrityError: as ``download``.
        """
        from huggingface_hub import utils

        with self._errors(repo_id, repo_type, revision=revision), NoProgressBars(utils):
            before = _names(self._blobs(repo_id, repo_type))
            folder = Path(
                self._api().snapshot_download(
                    repo_id,
                    revision=revision,
                    repo_type=repo_type,
                    cache_dir=self._cache_dir,
                    allow_patterns=list(patterns) if patterns is not None else None,
                )
            )
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    _verify(path, before)
            return folder

    def list_files(
        self, repo_id: str, *, revision: str | None = None, repo_type: RepoType = "model"
    ) -> Sequence[str]:
        """Paths of all files of a repository, sorted.

        Raises:
            NotFoundError, ConfigError, ServiceError: as ``download``.
        """
        with self._errors(repo_id, repo_type, revision=revision):
            return sorted(self._api().list_repo_files(repo_id, revision=revision, repo_type=repo_type))


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def _verify(path: Path, before: frozenset[str]) -> None:
    """Hold a file that has just arrived against the SHA-256 that the cache names it by."""
    blob = path.resolve()
    if blob.name in before or not _SHA256.fullmatch(blob.name):
        return
    digest = hashlib.sha256()
    with blob.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise IntegrityError(
            what=f"the file that arrived has SHA-256 {digest.hexdigest()}, the hub announced {blob.name}",
            where=path.name,
            remedy="download it again",
        )
