"""The port of a hub of model and dataset repositories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

__all__ = ["HubClient", "RepoType"]

RepoType = Literal["model", "dataset"]


@runtime_checkable
class HubClient(Protocol):
    """Files of repositories, brought to this machine whole or not at all.

    Every method raises NotFoundError (no such repository, revision or file), ConfigError (a gated repository
    without a credential; names the variable that carries it) and ServiceError (the hub failed or cannot be reached;
    says whether it is retryable).
    """

    def download(
        self, repo_id: str, filename: str, *, revision: str | None = None, repo_type: RepoType = "model"
    ) -> Path:
        """Path of one file, downloaded unless it is here already."""
        ...

    def snapshot(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        repo_type: RepoType = "model",
        patterns: Sequence[str] | None = None,
    ) -> Path:
        """Folder with the files of a repository whose paths match one of ``patterns`` (shell style; None: all)."""
        ...

    def list_files(
        self, repo_id: str, *, revision: str | None = None, repo_type: RepoType = "model"
    ) -> Sequence[str]:
        """Paths of all files of a repository, sorted."""
        ...
