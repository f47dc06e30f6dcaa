"""Hub datasets through the real clients against a hub on this machine. NoRobots and Tulu3 are generated fixtures."""

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_datasets import buffer_shuffle, content_digest, permutation
from crucible_ir import AdapterError, ConfigError, DatasetRef, ExitCode
from crucible_testing.hub import FIXTURE_TOKEN, LocalHub
from crucible_testing.hub_fixtures import (
    no_robots_files,
    no_robots_rows,
    parquet_bytes,
    tulu3_files,
    tulu3_rows,
)
from crucible_testing.hub_process import HubFailure, HubProcess

NO_ROBOTS = "HuggingFaceH4/no_robots"
TULU3 = "allenai/tulu-3-sft-mixture"
GATED = "crucible/gated"
AUTO = {"schema": "auto"}


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        hub.add(NO_ROBOTS, no_robots_files())
        hub.add(TULU3, tulu3_files())
        hub.add(GATED, no_robots_files(), gated=True)
        hub.add("crucible/private", no_robots_files(), private=True)
        hub.add("crucible/empty", {"README.md": b"# nothing\n"})
        hub.add("crucible/broken", {"data/train-00000-of-00001.parquet": b"PAR1 broken PAR1"})
        configs = "configs:\n" + "".join(
            f"- config_name: {n}\n  data_files: {n}.jsonl\n" for n in ("easy", "hard")
        )
        hub.add(
            "crucible/configs",
            {
                "README.md": f"---\n{configs}---\n".encode(),
                "easy.jsonl": b'{"question": "1+1?", "answer": "2"}\n',
                "hard.jsonl": b'{"question": "7*8?", "answer": "56"}\n',
            },
        )
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf") / "home"


@pytest.fixture(scope="module")
def process(hub: LocalHub, home: Path) -> Iterator[HubProcess]:
    with HubProcess(endpoint=hub.url, home=home) as process:
        yield process


@pytest.fixture(autouse=True)
def whole(hub: LocalHub) -> Iterator[None]:
    hub.granted = True
    yield
    hub.heal()


def load(process: HubProcess, repo: str, *, token: str | None = None, **fields: Any) -> Any:
    return process.call("load", token=token, ref={"id": repo, "mapping": AUTO, **fields})


def failure(
    process: HubProcess, what: str, repo: str, *, token: str | None = None, **fields: Any
) -> HubFailure:
    with pytest.raises(HubFailure) as caught:
        process.call(what, token=token, ref={"id": repo, "mapping": AUTO, **fields})
    assert FIXTURE_TOKEN not in caught.value.trace
    assert "\n" not in caught.value.text
    return caught.value


def messages(rows: list[dict[str, Any]]) -> list[list[tuple[str, str]]]:
    return [[(message["role"], message["content"]) for message in row["messages"]] for row in rows]


def test_no_robots_fixture_loads_in_seeded_order_with_its_commit_and_digests(
    hub: LocalHub, process: HubProcess
) -> None:
    rows = no_robots_rows()
    found = load(process, NO_ROBOTS, shuffle_seed=0)
    assert messages(found["rows"]) == messages([rows[n] for n in permutation(200, 0).tolist()])
    assert found["drops"] == []
    ref = found["ref"]
    repo = hub.find("dataset", NO_ROBOTS)
    assert repo is not None
    assert ref["revision"] == repo.commits[-1].sha
    assert ref["digest"] == content_digest(rows)
    assert ref["rows"] == 200
    assert ref["mapping"]["schema"] == "messages"
    assert process.call("load", ref=ref)["ref"] == ref


def test_the_test_split_and_skip_and_limit(process: HubProcess) -> None:
    found = load(process, NO_ROBOTS, split="test", skip=10, limit=5)
    assert messages(found["rows"]) == messages(no_robots_rows("test", count=50)[10:15])


def test_tulu3_fixture_loads_from_its_parts(process: HubProcess) -> None:
    found = load(process, TULU3)
    assert messages(found["rows"]) == messages(tulu3_rows())
    kept = load(process, TULU3, mapping={"schema": "messages", "keep": ["id", "source"]}, limit=1)
    assert kept["rows"][0]["id"] == "fixture_7_0"


def test_streaming_takes_what_it_needs_and_orders_through_the_buffer(
    hub: LocalHub, process: HubProcess
) -> None:
    before = len(hub.requests)
    found = load(process, TULU3, streaming=True, limit=30, shuffle_seed=1, shuffle_buffer=40)
    order = list(buffer_shuffle(range(200), seed=1, buffer_size=40))[:30]
    rows = tulu3_rows()
    assert messages(found["rows"]) == messages([rows[n] for n in order])
    fetched = {r.path.rsplit("/", 1)[-1] for r in hub.requests[before:] if r.method == "GET" and r.byte_range}
    assert fetched == {"train-00000-of-00002.parquet"}
    taken = process.call("stream", ref={"id": TULU3, "mapping": AUTO}, take=3)
    assert messages(taken["rows"]) == messages(rows[:3])
    assert taken["ref"]["streaming"] is True


def test_a_streamed_dataset_read_to_its_end_has_the_content_digest_of_the_loaded_one(
    process: HubProcess,
) -> None:
    streamed = load(process, NO_ROBOTS, streaming=True)
    assert streamed["ref"]["digest"] == content_digest(no_robots_rows())


def test_an_older_commit_is_loaded_by_its_revision(hub: LocalHub, process: HubProcess) -> None:
    name = "crucible/growing"
    first = hub.add(name, {"train.jsonl": b'{"prompt": "a", "completion": "b"}\n'})
    second = hub.add(name, {"train.jsonl": b'{"prompt": "a", "completion": "b"}\n' * 2})
    assert len(load(process, name)["rows"]) == 2
    old = load(process, name, revision=first)
    assert len(old["rows"]) == 1
    assert old["ref"]["revision"] == first != second
    assert "no such revision" in failure(process, "load", name, revision="f" * 40).text


def test_configurations_are_chosen_by_name(process: HubProcess) -> None:
    assert load(process, "crucible/configs", config="hard")["rows"][0]["messages"][0]["content"] == "7*8?"
    unknown = failure(process, "load", "crucible/configs", config="hrd")
    assert unknown.kind == "NotFoundError"
    assert unknown.text.endswith("no configuration 'hrd'; there are 'easy', 'hard'; did you mean 'hard'?")
    unnamed = failure(process, "load", "crucible/configs")
    assert unnamed.kind == "ConfigError"
    assert "it has several configurations: easy, hard; set config" in unnamed.text


def test_an_unknown_split_is_refused_with_the_nearest(process: HubProcess) -> None:
    for streaming in (False, True):
        error = failure(process, "load", NO_ROBOTS, split="tset", streaming=streaming)
        assert error.kind == "NotFoundError"
        assert error.text.endswith("no split 'tset'; there are 'train', 'test'; did you mean 'test'?")


@pytest.mark.parametrize("what", ["load", "check"])
def test_a_missing_repository_is_not_found(process: HubProcess, what: str) -> None:
    for repo in ("crucible/nowhere", "crucible/private"):
        error = failure(process, what, repo)
        assert (error.kind, error.exit_code) == ("NotFoundError", ExitCode.NOT_FOUND)
        assert error.text == (
            f"{repo}: no such repository on the hub; check the name; if it is private, export HF_TOKEN"
        )
    assert failure(process, what, "crucible/nowhere", token=FIXTURE_TOKEN).text.endswith("check the name")
    assert failure(process, what, "not a valid id").kind == "ConfigError"


def test_a_private_repository_opens_with_a_token(process: HubProcess) -> None:
    assert len(load(process, "crucible/private", token=FIXTURE_TOKEN, split="test")["rows"]) == 50


@pytest.mark.parametrize("what", ["load", "check"])
def test_a_gated_repository_names_the_variable_and_the_page(
    hub: LocalHub, process: HubProcess, what: str
) -> None:
    closed = failure(process, what, GATED)
    assert (closed.kind, closed.exit_code) == ("ConfigError", ExitCode.USAGE)
    assert closed.text == (
        f"HF_TOKEN: {GATED!r} is gated, and HF_TOKEN is not set; "
        f"accept its conditions at {hub.url}/datasets/{GATED} and export HF_TOKEN"
    )
    hub.granted = False
    refused = failure(process, what, GATED, token=FIXTURE_TOKEN)
    assert refused.kind == "ConfigError"
    assert "the token in HF_TOKEN has no access to it" in refused.text
    wrong = failure(process, what, GATED, token="hf_" + "wrong" * 6)
    assert wrong.kind == "ConfigError"
    assert "the hub refused the token in HF_TOKEN" in wrong.text
    assert "wrong" not in wrong.trace.replace("wrong token", "")


def test_a_gated_repository_opens_with_a_token_that_shows_up_nowhere(
    hub: LocalHub, process: HubProcess, home: Path
) -> None:
    process.call("check", token=FIXTURE_TOKEN, ref={"id": GATED})
    found = load(process, GATED, token=FIXTURE_TOKEN, split="test")
    assert messages(found["rows"]) == messages(no_robots_rows("test", count=50))
    streamed = load(process, GATED, token=FIXTURE_TOKEN, split="test", streaming=True, limit=3)
    assert messages(streamed["rows"]) == messages(no_robots_rows("test", count=50)[:3])
    assert FIXTURE_TOKEN not in json.dumps(found)
    assert FIXTURE_TOKEN not in process.stderr
    assert all(FIXTURE_TOKEN not in request.path for request in hub.requests)
    holding = [
        path for path in home.rglob("*") if path.is_file() and FIXTURE_TOKEN.encode() in path.read_bytes()
    ]
    assert holding == []


def test_a_saved_login_is_not_used(hub: LocalHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(FIXTURE_TOKEN)
    with HubProcess(endpoint=hub.url, home=home) as process:
        before = len(hub.requests)
        assert "HF_TOKEN is not set" in failure(process, "load", GATED).text
        assert not any(request.with_token for request in hub.requests[before:])


def test_a_download_that_breaks_off_once_is_taken_up_again(hub: LocalHub, tmp_path: Path) -> None:
    file = "train-00000-of-00001.parquet"
    with HubProcess(endpoint=hub.url, home=tmp_path / "home") as process:
        before = len(hub.requests)
        hub.break_off(file, after_bytes=5000)
        found = load(process, NO_ROBOTS)
    assert found["ref"]["digest"] == content_digest(no_robots_rows())
    asked = [request for request in hub.requests[before:] if request in hub.downloads(file)]
    assert len(asked) == 2


def test_a_download_that_cannot_go_on_fails_whole_and_may_be_tried_again(
    hub: LocalHub, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    hub.break_off("train-00000-of-00001.parquet", after_bytes=0, times=100)
    with HubProcess(endpoint=hub.url, home=home) as process:
        error = failure(process, "load", NO_ROBOTS)
        assert (error.kind, error.exit_code, error.retryable) == ("ServiceError", ExitCode.SERVICE, True)
        assert "the transfer broke off" in error.text
        assert not list(home.rglob("*.parquet"))
        assert not list((home / "datasets").rglob("*.arrow"))
        hub.heal()
        assert load(process, NO_ROBOTS)["ref"]["digest"] == content_digest(no_robots_rows())


def test_a_hub_that_fails_says_whether_and_when_to_try_again(hub: LocalHub, process: HubProcess) -> None:
    hub.fail(f"/api/datasets/{NO_ROBOTS}", status=503, times=20)
    error = failure(process, "check", NO_ROBOTS)
    assert (error.kind, error.retryable) == ("ServiceError", True)
    assert "the hub failed with status 503; try again later" in error.text
    hub.heal()
    hub.fail(f"/api/datasets/{NO_ROBOTS}", status=429, times=20, retry_after_s=7)
    error = failure(process, "check", NO_ROBOTS)
    assert (error.retryable, error.retry_after_s) == (True, 7.0)
    hub.heal()
    hub.fail(f"/api/datasets/{NO_ROBOTS}", status=418, times=20)
    error = failure(process, "check", NO_ROBOTS)
    assert (error.kind, error.retryable) == ("ServiceError", False)


def test_what_was_downloaded_loads_without_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with HubProcess(endpoint=hub.url, home=home) as process:
        online = load(process, NO_ROBOTS, limit=3)
    before = len(hub.requests)
    with HubProcess(endpoint=hub.url, home=home, environment={"HF_HUB_OFFLINE": "1"}) as process:
        process.call("check", ref={"id": NO_ROBOTS})
        offline = load(process, NO_ROBOTS, limit=3)
        assert offline["rows"] == online["rows"]
        assert offline["ref"]["digest"] == online["ref"]["digest"]
        pinned = process.call("load", ref=online["ref"])
        assert pinned["ref"] == online["ref"]
        error = failure(process, "load", TULU3)
        assert (error.kind, error.retryable) == ("ServiceError", False)
        assert "HF_HUB_OFFLINE" in error.text
    assert len(hub.requests) == before


def test_a_hub_that_is_not_there_may_be_tried_again(tmp_path: Path) -> None:
    with HubProcess(endpoint="http://127.0.0.1:9", home=tmp_path / "home") as process:
        for what in ("load", "check"):
            error = failure(process, what, NO_ROBOTS)
            assert (error.kind, error.retryable) == ("ServiceError", True)
            assert "could not be reached" in error.text


def test_a_repository_without_readable_data_is_refused(process: HubProcess) -> None:
    assert failure(process, "load", "crucible/empty").kind == "DataError"
    broken = failure(process, "load", "crucible/broken")
    assert (broken.kind, broken.exit_code) == ("DataError", ExitCode.DATA)


def test_local_files_and_folders_load_through_the_same_store(process: HubProcess, tmp_path: Path) -> None:
    rows = no_robots_rows("test", count=20)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    for name, data in no_robots_files().items():
        (folder / name).write_bytes(data)
    (tmp_path / "rows.parquet").write_bytes(parquet_bytes(rows))
    digests = {
        load(process, str(tmp_path / name))["ref"]["digest"] for name in ("rows.jsonl.gz", "rows.parquet")
    }
    assert digests == {content_digest(rows)}
    assert load(process, str(folder), split="test")["ref"]["rows"] == 50
    process.call("check", ref={"id": str(folder)})
    process.call("check", ref={"id": str(tmp_path / "rows.jsonl.gz")})
    taken = process.call("stream", ref={"id": str(tmp_path / "rows.jsonl.gz"), "mapping": AUTO}, take=2)
    assert messages(taken["rows"]) == messages(rows[:2])
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"\n')
    assert "bad.jsonl, line 1, column 15" in failure(process, "load", str(tmp_path / "bad.jsonl")).text
    for name in ("./nowhere.jsonl", "nowhere.jsonl", "data/nowhere.parquet"):
        missing = failure(process, "load", name)
        assert missing.kind == "NotFoundError"
        assert "no such file or folder" in missing.text
    assert failure(process, "load", "rows", source="memory").kind == "NotFoundError"


SAVE = """
import sys, datasets
rows = datasets.Dataset.from_list([{"prompt": "a", "completion": str(n)} for n in range(3)])
rows.save_to_disk(sys.argv[1] + "/one")
datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(sys.argv[1] + "/splits")
"""


def test_datasets_saved_to_disk_load_by_split(process: HubProcess, tmp_path: Path) -> None:
    import subprocess

    subprocess.run([sys.executable, "-c", SAVE, str(tmp_path)], check=True, capture_output=True)
    assert load(process, str(tmp_path / "one"))["ref"]["rows"] == 3
    assert load(process, str(tmp_path / "splits"), split="test")["ref"]["rows"] == 1
    error = failure(process, "load", str(tmp_path / "splits"), split="tests")
    assert error.text.endswith("no split 'tests'; there are 'train', 'test'; did you mean 'test'?")


def test_cells_that_json_does_not_know_are_turned(process: HubProcess, tmp_path: Path) -> None:
    from datetime import UTC, date, datetime, time, timedelta
    from decimal import Decimal

    row = {
        "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "at": time(3, 4),
        "took": timedelta(seconds=1.5),
        "cost": Decimal("1.50"),
        "score": float("nan"),
        "nested": [{"x": 0.5}],
    }
    (tmp_path / "a.parquet").write_bytes(parquet_bytes([row]))
    found = load(process, str(tmp_path / "a.parquet"), mapping={})
    (got,) = found["rows"]
    assert got["when"].startswith("2026-01-02T03:04:05")
    assert (got["day"], got["at"], got["took"], got["cost"]) == ("2026-01-02", "03:04:00", 1.5, "1.50")
    assert (got["score"], got["nested"]) == (None, [{"x": 0.5}])
    (tmp_path / "b.parquet").write_bytes(parquet_bytes([{"raw": b"\x00"}]))
    error = failure(process, "load", str(tmp_path / "b.parquet"), mapping={})
    assert "the column 'raw' holds a bytes, which is no JSON value" in error.text


def test_nothing_is_printed(process: HubProcess) -> None:
    load(process, NO_ROBOTS, split="test")
    assert "%|" not in process.stderr
    assert "examples/s" not in process.stderr


def test_a_missing_sdk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from crucible_kitchen.adapters.hf_datasets import HuggingFaceDatasetStore

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AdapterError) as caught:
        HuggingFaceDatasetStore()
    assert str(caught.value) == (
        "crucible.dataset_store: the adapter 'huggingface' needs the package 'datasets', which is not installed; "
        "pip install 'crucible-kitchen[datasets]'"
    )


def test_importing_the_adapters_imports_no_sdk() -> None:
    import subprocess

    code = (
        "import sys, crucible_kitchen.adapters.hf_datasets as d, crucible_kitchen.adapters.hf_hub as h;"
        "d.HuggingFaceDatasetStore(); h.HuggingFaceHub();"
        "print([n for n in ('datasets', 'huggingface_hub', 'pyarrow', 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wrong_mapping_is_refused_before_anything_is_fetched(hub: LocalHub) -> None:
    from crucible_kitchen.adapters.hf_datasets import HuggingFaceDatasetStore

    before = len(hub.requests)
    store = HuggingFaceDatasetStore()
    for method in (store.load, store.check):
        with pytest.raises(ConfigError, match="did you mean 'messages'"):
            method(DatasetRef(id=NO_ROBOTS, mapping={"schema": "mesages"}))
    assert len(hub.requests) == before
