"""A small Hugging Face hub on this machine, for the real clients to talk to.

It speaks what ``huggingface_hub`` and ``datasets`` use to read repositories: repository info, file trees, path info,
access checks, and files with ETag, commit and byte ranges; gated and private repositories; and faults on request
(a transfer that breaks off, a status, a file that is not what was announced). Clients find it through
``HF_ENDPOINT``, which they read when they are imported, so run them in a process of their own (``HubProcess``).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from crucible_testing.hub_http import HubServer

__all__ = ["FIXTURE_TOKEN", "Commit", "Fault", "HubRequest", "LocalHub", "Repo"]

FIXTURE_TOKEN = "hf_fixture0token0that0opens0gated0repos"
"""The token that this hub lets into gated repositories."""

RepoType = Literal["model", "dataset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRequest:
    """One request as it came; the token itself is not kept."""

    method: str
    path: str
    byte_range: str | None
    with_token: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The files of one revision."""

    sha: str
    files: Mapping[str, bytes]


@dataclass(slots=True, kw_only=True)
class Fault:
    """What goes wrong with requests whose path contains ``path``, ``times`` times."""

    path: str
    times: int
    after_bytes: int | None = None
    """Send so many bytes of the body, then close the connection."""
    status: int | None = None
    """Answer with this status."""
    retry_after_s: int | None = None
    body: bytes | None = None
    """Send this body under the headers of the real one."""
    method: str = "GET"


@dataclass(slots=True, kw_only=True)
class Repo:
    """One repository; the last commit is ``main``."""

    repo_id: str
    repo_type: RepoType
    gated: bool = False
    private: bool = False
    commits: list[Commit] = field(default_factory=list)

    def commit(self, revision: str) -> Commit | None:
        """The commit that a branch (``main``) or a SHA names."""
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.sha == revision), None)


def _sha1(*parts: bytes) -> str:
    return hashlib.sha1(b"\0".join(parts), usedforsecurity=False).hexdigest()


class LocalHub:
    """The hub; use it in a ``with`` block and give its ``url`` to the client's process as ``HF_ENDPOINT``."""

    def __init__(self, *, token: str = FIXTURE_TOKEN) -> None:
        self.token = token
        self.granted = True
        """Whether the token has access to gated repositories."""
        self.requests: list[HubRequest] = []
        self._repos: dict[tuple[str, str], Repo] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = HubServer(self)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()

    @property
    def url(self) -> str:
        """What ``HF_ENDPOINT`` is to be."""
        return self._server.url

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        repo_type: RepoType = "dataset",
        gated: bool = False,
        private: bool = False,
    ) -> str:
        """Create a repository, or put a new commit on it; returns the commit's SHA."""
        parts = [f"{name}:{_sha1(data)}".encode() for name, data in sorted(files.items())]
        repo = self._repos.setdefault(
            (repo_type, repo_id), Repo(repo_id=repo_id, repo_type=repo_type, gated=gated, private=private)
        )
        sha = _sha1(repo_id.encode(), str(len(repo.commits)).encode(), *parts)
        repo.commits.append(Commit(sha=sha, files=dict(files)))
        return sha

    def find(self, repo_type: str, repo_id: str) -> Repo | None:
        """The repository, if there is one."""
        return self._repos.get((repo_type, repo_id))

    def break_off(self, path: str, *, after_bytes: int, times: int = 1) -> None:
        """Close the connection after so many bytes of the next answers whose path contains ``path``."""
        self._faults.append(Fault(path=path, times=times, after_bytes=after_bytes))

    def fail(
        self, path: str, *, status: int, times: int = 1, retry_after_s: int | None = None, method: str = "GET"
    ) -> None:
        """Answer the next requests whose path contains ``path`` with ``status``."""
        self._faults.append(
            Fault(path=path, times=times, status=status, retry_after_s=retry_after_s, method=method)
        )

    def falsify(self, path: str, body: bytes) -> None:
        """Send other content of the same length than announced, once."""
        self._faults.append(Fault(path=path, times=1, body=body))

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The fault planted for this request, if any; each is used up."""
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fault.path in path and fault.method == method:
                    fault.times -= 1
                    return fault
        return None

    def heal(self) -> None:
        """Forget every fault."""
        with self._lock:
            self._faults.clear()

    def record(self, request: HubRequest) -> None:
        """Keep a request."""
        with self._lock:
            self.requests.append(request)

    def downloads(self, filename: str) -> list[HubRequest]:
        """The requests that asked for content of a file, in order."""
        return [
            r
            for r in self.requests
            if r.method == "GET" and "/resolve/" in r.path and r.path.endswith(filename)
        ]
