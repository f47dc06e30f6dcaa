"""Hub files through the real client against a hub on this machine: access, faults, integrity, the cache."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import AdapterError, ExitCode
from crucible_testing.hub import FIXTURE_TOKEN, LocalHub
from crucible_testing.hub_process import HubFailure, HubProcess

OPEN, GATED = "crucible/model", "crucible/gated-model"
WEIGHTS = bytes(range(256)) * 45_000
CHUNK = 10 * 1024 * 1024  # what the client writes to disk at once
FILES = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "sub/notes.txt": b"notes\n"}


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        hub.add(OPEN, FILES, repo_type="model")
        hub.add(GATED, FILES, repo_type="model", gated=True)
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def process(hub: LocalHub, home: Path) -> Iterator[HubProcess]:
    hub.granted = True
    with HubProcess(endpoint=hub.url, home=home) as process:
        yield process
    hub.heal()


def failure(process: HubProcess, what: str, *, token: str | None = None, **arguments: Any) -> HubFailure:
    with pytest.raises(HubFailure) as caught:
        process.call(what, token=token, **arguments)
    assert FIXTURE_TOKEN not in caught.value.trace
    return caught.value


def test_a_gated_model_needs_a_token_with_access(hub: LocalHub, process: HubProcess) -> None:
    for what, more in (("download", {"filename": "config.json"}), ("snapshot", {})):
        closed = failure(process, what, repo_id=GATED, **more)
        assert (closed.kind, closed.exit_code) == ("ConfigError", ExitCode.USAGE)
        assert closed.text.endswith(f"accept its conditions at {hub.url}/{GATED} and export HF_TOKEN")
    hub.granted = False
    refused = failure(process, "download", token=FIXTURE_TOKEN, repo_id=GATED, filename="config.json")
    assert "has no access to it" in refused.text
    hub.granted = True
    path = process.call("download", token=FIXTURE_TOKEN, repo_id=GATED, filename="config.json")
    assert Path(path).read_bytes() == FILES["config.json"]
    assert FIXTURE_TOKEN not in process.stderr


def test_a_file_that_is_here_is_not_fetched_again(hub: LocalHub, process: HubProcess) -> None:
    for _ in range(2):
        process.call("download", repo_id=OPEN, filename="sub/notes.txt")
    assert len(hub.downloads("sub/notes.txt")) == 1


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(hub: LocalHub, process: HubProcess) -> None:
    before = len(hub.downloads("model.safetensors"))
    hub.break_off("model.safetensors", after_bytes=CHUNK + 1000)
    path = process.call("download", repo_id=OPEN, filename="model.safetensors")
    assert Path(path).read_bytes() == WEIGHTS
    asked = [request.byte_range for request in hub.downloads("model.safetensors")[before:]]
    assert asked == [None, f"bytes={CHUNK}-"]


def test_a_transfer_that_fails_leaves_no_file_and_may_be_tried_again(
    hub: LocalHub, process: HubProcess, home: Path
) -> None:
    hub.break_off("model.safetensors", after_bytes=0, times=100)
    error = failure(process, "download", repo_id=OPEN, filename="model.safetensors")
    assert (error.kind, error.exit_code, error.retryable) == ("ServiceError", ExitCode.SERVICE, True)
    assert not list(home.rglob("*.safetensors"))
    hub.heal()
    path = process.call("download", repo_id=OPEN, filename="model.safetensors")
    assert Path(path).read_bytes() == WEIGHTS


@pytest.mark.parametrize("what", ["download", "snapshot"])
def test_a_file_that_is_not_what_was_announced_is_refused_and_deleted(
    hub: LocalHub, process: HubProcess, home: Path, what: str
) -> None:
    more = {"filename": "model.safetensors"} if what == "download" else {}
    hub.falsify("model.safetensors", WEIGHTS[:-1] + b"!")
    error = failure(process, what, repo_id=OPEN, **more)
    assert (error.kind, error.exit_code) == ("IntegrityError", ExitCode.INTEGRITY)
    assert "the hub announced" in error.text
    assert not list(home.rglob("*.safetensors"))
    found = Path(process.call(what, repo_id=OPEN, **more))
    found = found / "model.safetensors" if what == "snapshot" else found
    assert found.read_bytes() == WEIGHTS


def test_the_cache_serves_without_the_hub(hub: LocalHub, process: HubProcess, home: Path) -> None:
    path = process.call("download", repo_id=OPEN, filename="config.json")
    before = len(hub.requests)
    with HubProcess(endpoint=hub.url, home=home, environment={"HF_HUB_OFFLINE": "1"}) as offline:
        assert offline.call("download", repo_id=OPEN, filename="config.json") == path
        for what, more in (("download", {"filename": "model.safetensors"}), ("list_files", {})):
            error = failure(offline, what, repo_id=OPEN, **more)
            assert (error.kind, error.retryable) == ("ServiceError", False)
            assert "HF_HUB_OFFLINE" in error.text
    assert len(hub.requests) == before


def test_a_hub_that_is_not_there_may_be_tried_again(tmp_path: Path) -> None:
    with HubProcess(endpoint="http://127.0.0.1:9", home=tmp_path / "home") as process:
        error = failure(process, "snapshot", repo_id=OPEN)
        assert (error.kind, error.retryable) == ("ServiceError", True)
        assert "could not be reached" in error.text


@pytest.mark.slow
def test_the_clients_own_retries_end_in_the_same_error(tmp_path: Path) -> None:
    with HubProcess(endpoint="http://127.0.0.1:9", home=tmp_path / "home") as process:
        for what, more in (("download", {"filename": "config.json"}), ("list_files", {})):
            before = process.waited_s
            error = failure(process, what, repo_id=OPEN, **more)
            assert (error.kind, error.retryable) == ("ServiceError", True)
            assert process.waited_s > before


def test_a_revision_is_a_commit_or_main(hub: LocalHub, process: HubProcess) -> None:
    name = "crucible/growing-model"
    first = hub.add(name, {"config.json": b"1"}, repo_type="model")
    hub.add(name, {"config.json": b"2", "more.txt": b""}, repo_type="model")
    old = process.call("download", repo_id=name, filename="config.json", revision=first)
    new = process.call("download", repo_id=name, filename="config.json")
    assert (Path(old).read_bytes(), Path(new).read_bytes()) == (b"1", b"2")
    assert process.call("list_files", repo_id=name, revision=first) == ["config.json"]


def test_nothing_is_printed(process: HubProcess) -> None:
    process.call("snapshot", repo_id=OPEN)
    assert "%|" not in process.stderr


def test_a_missing_sdk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from crucible_kitchen.adapters.hf_hub import HuggingFaceHub

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AdapterError, match=r"crucible\.hub_client: .*pip install 'crucible-kitchen\[hub\]'"):
        HuggingFaceHub()
