"""Checkpoints through the server: names, expiry, resuming, copies, and files that others load."""

import concurrent.futures
import io
import shutil
import tarfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from crucible_ir import StorageError
from crucible_testing.gateway import MODEL, Tinker

ROWS = [[1, 2, 3, 4], [5, 6, 7]]


def saved(tinker: Tinker, model: str, seq: int, name: str = "one", **more: Any) -> dict[str, Any]:
    body = {"model_id": model, "seq_id": seq, "path": name, **more}
    result: dict[str, Any] = tinker.result(tinker.post("save_weights", body)["request_id"])
    return result


def trained(tinker: Tinker) -> str:
    model = tinker.model()
    tinker.train(model, 1, ROWS)
    tinker.step(model, 2)
    return model


def url_of(path: str, more: str = "") -> str:
    run, segment, name = path.removeprefix("tinker://").split("/")
    return f"/api/v1/training_runs/{run}/checkpoints/{segment}/{name}{more}"


def resumed(tinker: Tinker, path: str, *, optimizer: bool, number: int = 1) -> str:
    session = path.removeprefix("tinker://").split(":")[0]
    body = {"session_id": session, "model_seq_id": number, "path": path, "optimizer": optimizer}
    return str(tinker.result(tinker.post("load_weights", body)["request_id"])["model_id"])


def next_norm(tinker: Tinker, model: str, seq: int) -> float:
    tinker.train(model, seq, ROWS)
    tinker.result(tinker.step(model, seq + 1))
    return tinker.loss(model, seq + 2, ROWS)


def test_a_model_goes_on_from_a_saved_state_exactly(tinker: Tinker) -> None:
    model = trained(tinker)
    path = saved(tinker, model, 3)["path"]
    copy = resumed(tinker, path, optimizer=True)
    assert next_norm(tinker, copy, 1) == next_norm(tinker, model, 4)
    fresh = resumed(tinker, path, optimizer=False, number=2)
    assert tinker.loss(fresh, 1, ROWS) != tinker.loss(copy, 4, ROWS)
    assert next_norm(tinker, fresh, 2) != tinker.loss(copy, 5, ROWS)


def test_a_model_from_a_state_has_its_adapter_and_base(tinker: Tinker) -> None:
    model = trained(tinker)
    copy = resumed(tinker, saved(tinker, model, 3)["path"], optimizer=True)
    info = tinker.post("get_info", {"model_id": copy})
    assert (info["is_lora"], info["lora_rank"], info["model_name"]) == (True, 4, MODEL)
    assert info["model_data"]["tokenizer_id"] == tinker.settings.models[0].tokenizer_id


def test_a_name_is_taken_once_unless_overwriting_is_asked_for(tinker: Tinker) -> None:
    model = trained(tinker)
    path = saved(tinker, model, 3)["path"]
    assert "there already" in saved(tinker, model, 4)["error"]
    tinker.train(model, 5, ROWS)
    tinker.step(model, 6)
    assert saved(tinker, model, 7, overwrite=True, user_metadata={"k": "v"})["path"] == path
    copy = resumed(tinker, path, optimizer=True)
    assert tinker.loss(copy, 1, ROWS) == tinker.loss(model, 8, ROWS)
    (listed,) = tinker.get(f"training_runs/{model}/checkpoints")["checkpoints"]
    assert listed["user_metadata"] == {"k": "v"}
    assert len(list(tinker.settings.state.glob("models/*/weights-*"))) == 1


def test_lists_tell_what_there_is(tinker: Tinker) -> None:
    model = trained(tinker)
    saved(tinker, model, 3, "a")
    promise = tinker.post("save_weights_for_sampler", {"model_id": model, "seq_id": 4, "path": "b"})
    tinker.result(promise["request_id"])
    listed = tinker.get(f"training_runs/{model}/checkpoints")["checkpoints"]
    assert [(c["checkpoint_id"], c["checkpoint_type"]) for c in listed] == [
        ("weights/a", "training"),
        ("sampler_weights/b", "sampler"),
    ]
    assert all(c["size_bytes"] > 0 and datetime.fromisoformat(c["time"]) for c in listed)
    run = tinker.get(f"training_runs/{model}")
    assert run["last_checkpoint"]["checkpoint_id"] == "weights/a"
    assert run["last_sampler_checkpoint"]["checkpoint_id"] == "sampler_weights/b"
    page = tinker.get("checkpoints?limit=1&offset=1")
    assert [c["checkpoint_id"] for c in page["checkpoints"]] == ["weights/a"]
    assert page["cursor"] == {"offset": 1, "limit": 1, "total_count": 2}


def test_a_deleted_checkpoint_is_gone_with_its_files(tinker: Tinker) -> None:
    model = trained(tinker)
    path = saved(tinker, model, 3)["path"]
    assert tinker.ask("DELETE", url_of(path)).status == 204
    assert tinker.ask("DELETE", url_of(path)).status == 404
    assert not list(tinker.settings.state.glob("models/*/weights-*"))
    assert tinker.ask("POST", "/api/v1/weights_info", {"tinker_path": path}).status == 404


def test_a_checkpoint_expires_and_its_time_can_be_changed(start: Any) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    tinker = start(options={"clock": lambda: now[0]})
    model = trained(tinker)
    short = saved(tinker, model, 3, "short", ttl_seconds=3600)["path"]
    kept = saved(tinker, model, 4, "kept", ttl_seconds=3600)["path"]
    assert tinker.ask("PUT", url_of(kept, "/ttl"), {"ttl_seconds": None}).status == 204
    now[0] += timedelta(hours=2)
    assert tinker.ask("POST", "/api/v1/weights_info", {"tinker_path": short}).status == 404
    assert len(list(tinker.settings.state.glob("models/*/weights-*"))) == 2
    tinker.later(tinker.app.state.service.tidy()).result(30)
    assert len(list(tinker.settings.state.glob("models/*/weights-*"))) == 1
    (listed,) = tinker.get("checkpoints")["checkpoints"]
    assert (listed["tinker_path"], listed["expires_at"]) == (kept, None)
    assert saved(tinker, model, 5, "short")["path"] == short


def test_a_checkpoint_can_be_marked_public_and_copied(tinker: Tinker) -> None:
    model = trained(tinker)
    path = saved(tinker, model, 3)["path"]
    for method, public in (("POST", True), ("DELETE", False)):
        assert tinker.ask(method, url_of(path, "/publish")).status == 204
        assert tinker.get("checkpoints")["checkpoints"][0]["public"] is public
    copy = tinker.post("copy_weights", {"source_path": path, "destination_project_id": "p"})["tinker_path"]
    tinker.ask("DELETE", url_of(path))
    session = tinker.session()
    body = {"session_id": session, "model_seq_id": 0, "path": copy, "optimizer": True}
    made = tinker.result(tinker.post("load_weights", body)["request_id"])["model_id"]
    assert tinker.loss(made, 1, ROWS) == tinker.loss(model, 4, ROWS)


def copies(tinker: Tinker) -> list[str]:
    return [path.name for path in tinker.settings.state.glob("models/*/copy-*")]


def test_a_copy_that_cannot_be_made_leaves_no_files(tinker: Tinker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tinker, trained(tinker), 3)["path"]
    body = {"source_path": path, "destination_project_id": "p"}
    told = tinker.ask("POST", "/api/v1/copy_weights", {**body, "ttl_seconds": 0})
    assert (told.status, "ttl_seconds = 0" in told.json()["error"]) == (422, True)
    assert copies(tinker) == []

    def full(*_: Any) -> None:
        raise StorageError(what="the disk is full", where="state", remedy="free some space")

    with monkeypatch.context() as patched:
        patched.setattr(tinker.app.state.service.store, "put", full)
        assert tinker.ask("POST", "/api/v1/copy_weights", body).status == 507
    assert copies(tinker) == []
    assert tinker.post("copy_weights", body)["tinker_path"]


def test_two_copies_to_one_name_at_once_make_one(tinker: Tinker, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()
    copytree = shutil.copytree

    def slow(source: Path, target: Path) -> Path:
        begun.release()
        assert go_on.wait(10)
        return copytree(source, target)

    monkeypatch.setattr(shutil, "copytree", slow)
    path = saved(tinker, trained(tinker), 3)["path"]
    body = {"source_path": path, "session_id": tinker.session(), "model_seq_id": 0}
    first = tinker.asking("POST", "/api/v1/copy_weights", body)
    assert begun.acquire(timeout=10)
    second = tinker.asking("POST", "/api/v1/copy_weights", body)
    assert second in concurrent.futures.wait([second], timeout=5).done
    go_on.set()
    assert (first.result(10).status, second.result().status) == (200, 422)
    assert len(copies(tinker)) == 1


def test_files_are_measured_and_removed_in_other_threads_than_that_of_the_requests(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tinker = start(limits={"snapshot_steps": 1, "kept_samplers": 1})
    rmtree, rglob = shutil.rmtree, Path.rglob
    seen: dict[str, set[int]] = {"removed": set(), "measured": set()}

    def removed(path: str | Path, **more: Any) -> None:
        if not Path(path).name.startswith(
            "."
        ):  # a draft of the fake engine's, which works where it is called
            seen["removed"].add(threading.get_ident())
        rmtree(path, **more)

    def measured(folder: Path, pattern: str) -> Any:
        seen["measured"].add(threading.get_ident())
        return rglob(folder, pattern)

    async def own() -> int:
        return threading.get_ident()

    monkeypatch.setattr(shutil, "rmtree", removed)
    monkeypatch.setattr(Path, "rglob", measured)
    model = trained(tinker)
    for seq in (3, 4):
        path = saved(tinker, model, seq, overwrite=True)["path"]
    tinker.train(model, 5, ROWS)
    tinker.train(model, 6, ROWS, loss="nothing")
    tinker.step(model, 7)  # refused, and the gradients of 5 are dropped
    tinker.train(model, 8, ROWS)
    tinker.step(model, 9)  # a newer state takes the place of the first
    for seq in (10, 11):
        body = {"model_id": model, "seq_id": seq, "sampling_session_seq_id": seq}
        tinker.result(tinker.post("save_weights_for_sampler", body)["request_id"])
    assert tinker.ask("DELETE", url_of(path)).status == 204
    tinker.post(f"sessions/{model.partition(':')[0]}/finish", {"reason": {"type": "success"}})
    loop = tinker.later(own()).result(10)
    assert all(threads and loop not in threads for threads in seen.values()), (loop, seen)
    assert not list(tinker.settings.state.glob("models/*/*"))


def test_what_a_checkpoint_belongs_to_can_be_asked(tinker: Tinker) -> None:
    path = saved(tinker, trained(tinker), 3)["path"]
    info = tinker.post("weights_info", {"tinker_path": path})
    assert (info["base_model"], info["is_lora"], info["lora_rank"]) == (MODEL, True, 4)
    assert (info["train_mlp"], info["train_attn"], info["train_unembed"]) == (True, True, True)


def test_links_to_files_need_no_key_and_no_other_file_can_be_had(start: Any) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    tinker = start(api_key="tml-a-secret-key", options={"clock": lambda: now[0]})
    session = tinker.session()
    model = tinker.model(session, lora_config=None)  # the bigram engine exports whole models alone
    promise = tinker.post("save_weights_external", {"model_id": model, "seq_id": 1, "path": "e"})
    result = tinker.result(promise["request_id"])
    assert result["path"] == f"tinker://{model}/external_weights/e"
    answer = tinker.ask("GET", url_of(result["path"], "/external_weights_urls")).json()
    (name, link), *_ = answer["urls"].items()
    parts = urlsplit(link)
    fetched = tinker.ask("GET", f"{parts.path}?{parts.query}", headers={"x-api-key": ""})
    assert fetched.status == 200
    assert np.load(io.BytesIO(fetched.body)).ndim == 2
    assert result["size_bytes"] == len(fetched.body)
    changed = parts.query.replace(name, "..%2F..%2Fgateway.sqlite")
    assert tinker.ask("GET", f"{parts.path}?{changed}", headers={"x-api-key": ""}).status == 403
    now[0] += timedelta(hours=2)
    assert tinker.ask("GET", f"{parts.path}?{parts.query}").status == 403


def test_an_archive_holds_what_others_load(tinker: Tinker) -> None:
    session = tinker.session()
    model = tinker.model(session, lora_config=None)
    promise = tinker.post("save_weights_for_sampler", {"model_id": model, "seq_id": 1, "path": "s"})
    path = tinker.result(promise["request_id"])["path"]
    answer = tinker.ask("GET", url_of(path, "/archive"))
    assert answer.status == 302
    assert answer.headers["expires"].endswith("GMT")
    parts = urlsplit(answer.headers["location"])
    fetched = tinker.ask("GET", f"{parts.path}?{parts.query}")
    with tarfile.open(fileobj=io.BytesIO(fetched.body)) as packed:
        assert packed.getnames() == ["weights.npy"]


@pytest.mark.parametrize("path", ["weights/nothing", "nonsense/one"])
def test_a_checkpoint_that_is_not_there_is_not_found(tinker: Tinker, path: str) -> None:
    model = tinker.model()
    for method, more in (("DELETE", ""), ("PUT", "/ttl"), ("GET", "/archive"), ("POST", "/publish")):
        answer = tinker.ask(method, f"/api/v1/training_runs/{model}/checkpoints/{path}{more}", {})
        assert answer.status == 404, method


def test_sessions_can_be_listed_searched_and_described(tinker: Tinker) -> None:
    first = tinker.post("create_session", {"display_name": "Blue whale", "user_metadata": {"k": "v"}})[
        "session_id"
    ]
    second = tinker.session()
    model = tinker.model(first)
    saved(tinker, model, 1)
    assert set(tinker.get("sessions")["sessions"]) == {first, second}
    described = tinker.get(f"sessions/{first}")
    assert described["training_run_ids"] == [model]
    assert (described["display_name"], described["user_metadata"]) == ("Blue whale", {"k": "v"})
    for body in ({"display_name": "whale BLUE"}, {"user_metadata": {"k": "v"}}, {"session_id": first}):
        (found,) = tinker.post("sessions/search", body)["sessions"]
        assert (found["session_id"], found["checkpoints_count"]) == (first, 1)
    page = tinker.post("sessions/search", {"limit": 1})
    rest = tinker.post("sessions/search", {"limit": 1, "cursor": page["next_cursor"]})
    ids = [s["session_id"] for s in (*page["sessions"], *rest["sessions"])]
    assert set(ids) == {first, second}
    tinker.post(f"sessions/{second}/finish", {"reason": {"type": "interrupted"}, "detail": "power"})
    (ended,) = tinker.post("sessions/search", {"session_id": second})["sessions"]
    assert ended["status"]["reason"] == {"type": "interrupted"}
    assert tinker.ask("PUT", f"/api/v1/sessions/{first}/project", {"project_id": "p"}).status == 204
    assert tinker.post("sessions/search", {"session_id": first})["sessions"][0]["project_id"] == "p"
