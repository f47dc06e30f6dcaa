"""The HTTP side of the hub stand-in: routes, answers, byte ranges, faults."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from crucible_testing.hub import Commit, LocalHub, Repo

__all__ = ["HubServer"]

_API = re.compile(r"/api/(?P<kind>datasets|models)/(?P<id>[^/]+/[^/]+)(?:/(?P<rest>.*))?")
_FILE = re.compile(r"/(?P<datasets>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_DATE = "2026-01-01T00:00:00.000Z"
_LARGE = (".parquet", ".safetensors", ".bin", ".arrow")


def _is_large(name: str) -> bool:
    return name.endswith(_LARGE)


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _etag(name: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if _is_large(name) else _oid(data)


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": _oid(data), "size": len(data), "path": name}
    if _is_large(name):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _tree(commit: Commit, folder: str, *, recursive: bool) -> list[dict[str, Any]] | None:
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    inside = {name: data for name, data in commit.files.items() if name.startswith(prefix)}
    if prefix and not inside:
        return None
    entries: dict[str, dict[str, Any]] = {}
    for name, data in sorted(inside.items()):
        parts = name[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            path = prefix + "/".join(parts[:depth])
            entries.setdefault(
                path, {"type": "directory", "oid": _oid(path.encode()), "size": 0, "path": path}
            )
        if recursive or len(parts) == 1:
            entries[name] = _entry(name, data)
    return list(entries.values())


def _info(repo: Repo, commit: Commit) -> dict[str, Any]:
    return {
        "_id": _oid(repo.repo_id.encode())[:24],
        "id": repo.repo_id,
        "author": repo.repo_id.split("/", 1)[0],
        "sha": commit.sha,
        "lastModified": _DATE,
        "createdAt": _DATE,
        "private": repo.private,
        "gated": "auto" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": name} for name in sorted(commit.files)],
    }


class _Answer(Exception):
    """An answer that ends the handling of a request."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status = status
        self.code = code
        self.message = message or code
        super().__init__(status, code)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: requests are recorded."""

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip() or None

    def _serve(self) -> None:
        from crucible_testing.hub import HubRequest

        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        self.hub.record(
            HubRequest(
                method=self.command,
                path=unquote(self.path),
                byte_range=self.headers.get("Range"),
                with_token=self._token() is not None,
            )
        )
        try:
            self._route(body)
        except _Answer as answer:
            self._send_error(answer)

    do_GET = _serve  # noqa: N815
    do_HEAD = _serve  # noqa: N815
    do_POST = _serve  # noqa: N815

    def _route(self, body: bytes) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        fault = self.hub.take_fault(self.command, path)
        if fault is not None and fault.status is not None:
            headers = {"Retry-After": str(fault.retry_after_s)} if fault.retry_after_s is not None else {}
            self._send(fault.status, b"{}", headers)
            return
        if self._token() not in (None, self.hub.token):
            raise _Answer(401, message="Invalid credentials in Authorization header")
        if match := _FILE.fullmatch(path):
            repo = self._repo("dataset" if match["datasets"] else "model", match["id"])
            self._check_access(repo)
            commit = self._commit(repo, match["revision"])
            if match["file"] not in commit.files:
                raise _Answer(404, "EntryNotFound", "Entry not found")
            content = commit.files[match["file"]]
            sent = fault.body if fault is not None and fault.body is not None else content
            stop = fault.after_bytes if fault is not None else None
            self._send_file(match["file"], content, commit.sha, sent=sent, stop_after=stop)
        elif match := _API.fullmatch(path):
            repo = self._repo(match["kind"][:-1], match["id"])
            self._api(repo, match["rest"] or "", parse_qs(url.query), body)
        else:
            raise _Answer(404, message="no such route")

    def _repo(self, repo_type: str, repo_id: str) -> Repo:
        repo = self.hub.find(repo_type, repo_id)
        if repo is None or (repo.private and self._token() is None):
            raise _Answer(404 if self._token() else 401, "RepoNotFound", "Repository not found")
        return repo

    def _check_access(self, repo: Repo) -> None:
        if not repo.gated:
            return
        if self._token() is None:
            raise _Answer(401, "GatedRepo", f"Access to {repo.repo_type} {repo.repo_id} is restricted.")
        if not self.hub.granted:
            raise _Answer(403, "GatedRepo", f"Access to {repo.repo_type} {repo.repo_id} is restricted.")

    def _commit(self, repo: Repo, revision: str) -> Commit:
        commit = repo.commit(revision)
        if commit is None:
            raise _Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _api(self, repo: Repo, rest: str, query: dict[str, list[str]], body: bytes) -> None:
        route, _, tail = rest.partition("/")
        match route:
            case "":
                self._send_json(_info(repo, self._commit(repo, "main")))
            case "revision":
                self._send_json(_info(repo, self._commit(repo, tail)))
            case "auth-check":
                self._check_access(repo)
                self._send_json({})
            case "refs":
                main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.commits[-1].sha}
                self._send_json({"branches": [main], "converts": [], "tags": []})
            case "tree":
                revision, _, folder = tail.partition("/")
                recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
                entries = _tree(self._commit(repo, revision), folder, recursive=recursive)
                if entries is None:
                    raise _Answer(404, "EntryNotFound", "Entry not found")
                self._send_json(entries)
            case "paths-info":
                self._send_json(self._paths_info(self._commit(repo, tail), body))
            case _:
                raise _Answer(404, message="no such route")

    def _paths_info(self, commit: Commit, body: bytes) -> list[dict[str, Any]]:
        if (self.headers.get("Content-Type") or "").startswith("application/json"):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body.decode()).get("paths", [])
        found = []
        for path in [paths] if isinstance(paths, str) else paths:
            if path in commit.files:
                found.append(_entry(path, commit.files[path]))
            elif _tree(commit, path, recursive=False):
                found.append({"type": "directory", "oid": _oid(path.encode()), "size": 0, "path": path})
        return found

    # --- answers ---------------------------------------------------------------------------------------------

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send_error(self, answer: _Answer) -> None:
        headers = {"Content-Type": "application/json", "X-Error-Message": answer.message}
        if answer.code:
            headers["X-Error-Code"] = answer.code
        self._send(answer.status, json.dumps({"error": answer.message}).encode(), headers)

    def _send_file(self, name: str, content: bytes, sha: str, *, sent: bytes, stop_after: int | None) -> None:
        begin, end, status = 0, len(content), 200
        if found := _RANGE.fullmatch(self.headers.get("Range") or ""):
            begin = int(found[1])
            end = min(int(found[2]) + 1, end) if found[2] else end
            status = 206
        if begin > len(content):
            raise _Answer(416, message="Requested range not satisfiable")
        self.send_response(status)
        self.send_header("ETag", f'"{_etag(name, content)}"')
        self.send_header("X-Repo-Commit", sha)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Disposition", f'inline; filename="{name.rsplit("/", 1)[-1]}"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        part = sent[begin:end]
        if stop_after is None:
            self.wfile.write(part)
            return
        self.wfile.write(part[:stop_after])
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class HubServer:
    """The server's thread; bound to a free port of this machine when it is made."""

    def __init__(self, hub: LocalHub) -> None:
        handler = type("HubHandler", (_Handler,), {"hub": hub})
        self._http = _Quiet(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port and wait for the thread."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
