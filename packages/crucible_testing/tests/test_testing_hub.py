"""The hub stand-in answers as the hub's interface is documented; its fixtures have the schemas they stand for."""

import hashlib
import http.client
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from crucible_testing.hub import FIXTURE_TOKEN, LocalHub
from crucible_testing.hub_fixtures import (
    no_robots_files,
    no_robots_rows,
    parquet_bytes,
    tulu3_files,
    tulu3_rows,
)

LARGE = b"0123456789" * 100


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        hub.add("me/open", {"README.md": b"# r\n", "data/a.parquet": LARGE, "data/deep/b.txt": b"b"})
        hub.add("me/gated", {"w.bin": LARGE}, repo_type="model", gated=True)
        hub.add("me/private", {"w.bin": LARGE}, private=True)
        yield hub


def ask(
    hub: LocalHub,
    method: str,
    path: str,
    *,
    token: str | None = None,
    body: str | None = None,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    try:
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def ask_json(hub: LocalHub, path: str, **options: Any) -> Any:
    status, _, body = ask(hub, options.pop("method", "GET"), path, **options)
    assert status == 200
    return json.loads(body)


def test_a_file_has_its_etag_commit_and_ranges(hub: LocalHub) -> None:
    path = "/datasets/me/open/resolve/main/data/a.parquet"
    repo = hub.find("dataset", "me/open")
    assert repo is not None
    status, headers, body = ask(hub, "GET", path)
    assert (status, body) == (200, LARGE)
    assert headers["etag"] == f'"{hashlib.sha256(LARGE).hexdigest()}"'
    assert headers["x-repo-commit"] == repo.commits[0].sha
    assert ask(hub, "HEAD", path)[2] == b""
    status, headers, body = ask(hub, "GET", path, Range="bytes=990-")
    assert (status, body, headers["content-range"]) == (206, LARGE[990:], "bytes 990-999/1000")
    assert ask(hub, "GET", path, Range="bytes=0-4")[2] == LARGE[:5]
    assert ask(hub, "GET", path, Range="bytes=2000-")[0] == 416
    small = ask(hub, "HEAD", "/datasets/me/open/resolve/main/README.md")[1]
    assert small["etag"] == f'"{hashlib.sha1(b"blob 4" + bytes(1) + b"# r" + bytes([10])).hexdigest()}"'


def test_a_tree_is_listed_flat_or_deep(hub: LocalHub) -> None:
    flat = ask_json(hub, "/api/datasets/me/open/tree/main")
    assert [(entry["type"], entry["path"]) for entry in flat] == [
        ("file", "README.md"),
        ("directory", "data"),
    ]
    deep = ask_json(hub, "/api/datasets/me/open/tree/main?recursive=True")
    assert [entry["path"] for entry in deep] == [
        "README.md",
        "data",
        "data/a.parquet",
        "data/deep",
        "data/deep/b.txt",
    ]
    inside = ask_json(hub, "/api/datasets/me/open/tree/main/data")
    assert [entry["path"] for entry in inside] == ["data/a.parquet", "data/deep"]
    assert inside[0]["lfs"] == {"oid": hashlib.sha256(LARGE).hexdigest(), "size": 1000, "pointerSize": 134}
    assert ask(hub, "GET", "/api/datasets/me/open/tree/main/nowhere")[0] == 404


def test_paths_and_refs_are_told(hub: LocalHub) -> None:
    form = "paths=README.md&paths=data&paths=none&expand=False"
    found = ask_json(
        hub,
        "/api/datasets/me/open/paths-info/main",
        method="POST",
        body=form,
        Content_Type="application/x-www-form-urlencoded",
    )
    assert [entry["path"] for entry in found] == ["README.md", "data"]
    found = ask_json(
        hub,
        "/api/datasets/me/open/paths-info/main",
        method="POST",
        body='{"paths": "README.md"}',
        Content_Type="application/json",
    )
    assert [entry["path"] for entry in found] == ["README.md"]
    (branch,) = ask_json(hub, "/api/datasets/me/open/refs")["branches"]
    assert branch["name"] == "main"


def test_access_is_refused_with_the_hubs_codes(hub: LocalHub) -> None:
    file = "/me/gated/resolve/main/w.bin"
    for path in (file, "/api/models/me/gated/auth-check"):
        status, headers, _ = ask(hub, "GET", path)
        assert (status, headers["x-error-code"]) == (401, "GatedRepo")
    assert ask(hub, "GET", file, token=FIXTURE_TOKEN)[2] == LARGE
    assert ask_json(hub, "/api/models/me/gated")["gated"] == "auto"
    hub.granted = False
    assert ask(hub, "GET", file, token=FIXTURE_TOKEN)[0] == 403
    status, headers, _ = ask(hub, "GET", file, token="other")
    assert (status, headers["x-error-message"]) == (401, "Invalid credentials in Authorization header")
    for path in ("/api/datasets/me/private", "/api/datasets/me/nowhere"):
        status, headers, _ = ask(hub, "GET", path)
        assert (status, headers["x-error-code"]) == (401, "RepoNotFound")
    assert ask(hub, "GET", "/api/datasets/me/nowhere", token=FIXTURE_TOKEN)[0] == 404
    assert ask(hub, "GET", "/api/datasets/me/private", token=FIXTURE_TOKEN)[0] == 200
    assert ask(hub, "GET", "/datasets/me/open/resolve/v9/README.md")[1]["x-error-code"] == "RevisionNotFound"
    assert ask(hub, "GET", "/datasets/me/open/resolve/main/none")[1]["x-error-code"] == "EntryNotFound"
    for path in ("/nowhere", "/api/datasets/me/open/nowhere"):
        assert ask(hub, "GET", path)[0] == 404


def test_faults_happen_as_often_as_they_were_planted(hub: LocalHub) -> None:
    path = "/datasets/me/open/resolve/main/data/a.parquet"
    hub.break_off("a.parquet", after_bytes=10)
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(hub, "GET", path)
    assert caught.value.partial == LARGE[:10]
    assert ask(hub, "GET", path)[2] == LARGE
    hub.fail("a.parquet", status=429, retry_after_s=3, times=2)
    status, headers, _ = ask(hub, "GET", path)
    assert (status, headers["retry-after"]) == (429, "3")
    hub.heal()
    assert ask(hub, "GET", path)[0] == 200
    hub.falsify("a.parquet", b"x" * 1000)
    assert ask(hub, "GET", path)[2] == b"x" * 1000


def test_requests_are_recorded_without_the_token(hub: LocalHub) -> None:
    ask(hub, "GET", "/datasets/me/open/resolve/main/data/a.parquet", token=FIXTURE_TOKEN, Range="bytes=5-")
    (request,) = hub.downloads("a.parquet")
    assert (request.method, request.byte_range, request.with_token) == ("GET", "bytes=5-", True)
    assert FIXTURE_TOKEN not in repr(hub.requests)


def test_a_new_commit_leaves_the_old_one_readable(hub: LocalHub) -> None:
    old = hub.add("me/growing", {"a.txt": b"1"})
    new = hub.add("me/growing", {"a.txt": b"2"})
    assert old != new
    assert ask(hub, "GET", f"/datasets/me/growing/resolve/{old}/a.txt")[2] == b"1"
    assert ask(hub, "GET", "/datasets/me/growing/resolve/main/a.txt")[2] == b"2"
    assert ask_json(hub, f"/api/datasets/me/growing/revision/{old}")["sha"] == old


def test_the_fixtures_have_the_columns_and_types_they_stand_for() -> None:
    import pyarrow.parquet as pq

    files = no_robots_files()
    table = pq.read_table(io.BytesIO(files["data/train-00000-of-00001.parquet"]))
    assert table.column_names == ["prompt", "prompt_id", "messages", "category"]
    assert table.to_pylist() == no_robots_rows()
    assert b"FIXTURE" in files["README.md"]
    assert all(len(row["prompt_id"]) == 64 for row in no_robots_rows("test"))
    assert no_robots_rows("train")[0] != no_robots_rows("test")[0]
    parts = [data for name, data in tulu3_files().items() if name.endswith(".parquet")]
    tables = [pq.read_table(io.BytesIO(data)) for data in parts]
    assert tables[0].column_names == ["id", "messages", "source"]
    assert [row for table in tables for row in table.to_pylist()] == tulu3_rows()
    assert str(tables[0].schema.field("messages").type).startswith("list<")
    assert parquet_bytes(tulu3_rows()) == parquet_bytes(tulu3_rows())
    assert all(row["messages"][-1]["role"] == "assistant" for row in [*tulu3_rows(), *no_robots_rows()])
