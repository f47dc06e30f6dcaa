"""A server that ends at any moment, and one that goes on from what it left."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_gateway.tinker.store import StateStore
from crucible_ir import StorageError
from crucible_testing.backend import BigramBackend
from crucible_testing.gateway import MODEL, Tinker

ROWS = [[1, 2, 3, 4], [5, 6, 7]]
STEPS = 12


def left_behind(tinker: Tinker, target: Path) -> Path:
    """The state folder at one moment, in which the server does nothing else: what a kill at that moment leaves."""

    async def copy() -> None:
        with tinker.app.state.service.store.still():
            shutil.copytree(tinker.settings.state, target)

    tinker.later(copy()).result(60)
    return target


def submit(tinker: Tinker, model: str, step: int) -> None:
    tinker.train(model, 2 * step + 1, ROWS)
    tinker.step(model, 2 * step + 2)


def told(tinker: Tinker, model: str, step: int) -> tuple[float, float]:
    loss = tinker.result(f"{model}:{2 * step + 1}").metrics["loss:sum"]
    return loss, tinker.result(f"{model}:{2 * step + 2}")["metrics"]["unclipped_grad_l2:mean"]


@pytest.fixture
def uninterrupted(start: Any, tmp_path: Path) -> list[tuple[float, float]]:
    tinker = start(state=tmp_path / "uninterrupted")
    model = tinker.model()
    for step in range(STEPS):
        submit(tinker, model, step)
    return [told(tinker, model, step) for step in range(STEPS)]


@pytest.mark.parametrize("killed_after", range(1, STEPS))
def test_no_step_is_lost_or_taken_twice_wherever_the_server_is_killed(
    start: Any, tmp_path: Path, uninterrupted: list[tuple[float, float]], killed_after: int
) -> None:
    first = start(limits={"snapshot_steps": 4})
    model = first.model()
    for step in range(killed_after):
        submit(first, model, step)
    first.train(model, 2 * killed_after + 1, ROWS)  # a step that is half there
    read = [told(first, model, step) for step in range(killed_after // 2)]
    state = left_behind(first, tmp_path / "after")
    second = start(state=state, limits={"snapshot_steps": 4})
    assert second.step(model, 2 * killed_after + 2) == f"{model}:{2 * killed_after + 2}"
    for step in range(killed_after + 1, STEPS):
        submit(second, model, step)
    rest = [told(second, model, step) for step in range(killed_after // 2, STEPS)]
    assert read + rest == uninterrupted


def test_a_kill_amid_requests_that_came_out_of_order_loses_none(start: Any, tmp_path: Path) -> None:
    first = start()
    model = first.model()
    ids = [first.step(model, 3), first.train(model, 2, ROWS)]
    second = start(state=left_behind(first, tmp_path / "after"))
    ids.append(second.train(model, 1, ROWS))
    results = [second.result(id) for id in ids]
    assert results[0]["metrics"]
    assert results[1].metrics["loss:sum"] == results[2].metrics["loss:sum"]


def test_results_that_nobody_read_outlive_the_server(start: Any, tmp_path: Path) -> None:
    first = start(limits={"snapshot_steps": 1})
    model = first.model()
    for step in range(3):
        submit(first, model, step)
    wanted = [told(first, model, step) for step in range(3)]
    first.loss(model, 7, ROWS)  # begins once the state before it is written
    second = start(state=left_behind(first, tmp_path / "after"), limits={"snapshot_steps": 1})
    assert [told(second, model, step) for step in range(3)] == wanted
    assert "submit forward_backward 0" not in second.backend.journal


def test_no_more_is_done_again_than_since_the_last_written_state(start: Any, tmp_path: Path) -> None:
    first = start(limits={"snapshot_steps": 5})
    model = first.model()
    for step in range(7):
        submit(first, model, step)
        told(first, model, step)
    second = start(state=left_behind(first, tmp_path / "after"), limits={"snapshot_steps": 5})
    second.loss(model, 15, ROWS)
    assert sum(line.startswith("submit optim_step") for line in second.backend.journal) == 2


def test_a_server_that_was_stopped_does_nothing_again(start: Any) -> None:
    first = start()
    model = first.model()
    submit(first, model, 0)
    submit(first, model, 1)
    wanted = told(first, model, 1)
    loss = first.loss(model, 5, ROWS)
    first.stop()
    second = start()
    assert told(second, model, 1) == wanted
    assert second.loss(model, 6, ROWS) == loss
    assert sum(line.startswith("submit optim_step") for line in second.backend.journal) == 0


def test_gradients_that_waited_when_the_server_was_stopped_are_still_used(
    start: Any, uninterrupted: list[tuple[float, float]]
) -> None:
    first = start()
    model = first.model()
    submit(first, model, 0)
    first.train(model, 3, ROWS)
    first.stop()
    second = start()
    second.step(model, 4)
    assert told(second, model, 1) == uninterrupted[1]


def test_what_was_told_as_a_failure_is_none_the_less_after_a_restart(start: Any, tmp_path: Path) -> None:
    first = start(backend=BigramBackend(fail={"forward_backward": 2, "optim_step": 2}))
    model = first.model()
    ids = [first.train(model, 1, ROWS), first.step(model, 2)]
    ids += [
        first.train(model, 3, ROWS),
        first.train(model, 4, ROWS),
        first.step(model, 5),
    ]  # 4 fails, 5 is refused
    ids += [
        first.train(model, 6, ROWS),
        first.step(model, 7),
        first.train(model, 8, ROWS),
        first.step(model, 9),
    ]
    before = [first.result(id) for id in ids]
    assert [isinstance(result, dict) and "error" in result for result in before] == [
        *(False, False, False, True, True, False, False, False, True)
    ]
    loss = first.loss(model, 10, ROWS)
    second = start(state=left_behind(first, tmp_path / "after"))
    assert [second.result(id) for id in ids] == before
    assert second.loss(model, 11, ROWS) == loss


def test_samplers_and_checkpoints_outlive_the_server(start: Any, tmp_path: Path) -> None:
    first = start()
    model = first.model()
    session = model.split(":")[0]
    submit(first, model, 0)
    ids = {
        "path": first.post("save_weights", {"model_id": model, "seq_id": 3, "path": "one"}),
        "sampling_session_id": first.post(
            "save_weights_for_sampler", {"model_id": model, "seq_id": 4, "sampling_session_seq_id": 0}
        ),
    }
    saved = {key: first.result(promise["request_id"])[key] for key, promise in ids.items()}

    def sampled(tinker: Tinker, seq: int) -> list[int]:
        body = {
            "sampling_session_id": saved["sampling_session_id"],
            "seq_id": seq,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
            "sampling_params": {"max_tokens": 6, "seed": 3},
        }
        message = tinker.result(tinker.post("asample", body)["request_id"])
        return np.frombuffer(message.sequences[0].tokens, dtype=np.int32).tolist()

    wanted = sampled(first, 0)
    loss = first.loss(model, 5, ROWS)
    second = start(state=left_behind(first, tmp_path / "elsewhere"))
    assert (
        second.ask("POST", "/api/v1/retrieve_future", {"request_id": f"{session}:sample:0:0"}).status == 410
    )
    assert sampled(second, 1) == wanted
    assert second.result(f"{model}:create")["model_id"] == model
    body = {"session_id": session, "model_seq_id": 1, "path": saved["path"], "optimizer": True}
    other = second.result(second.post("load_weights", body)["request_id"])["model_id"]
    assert second.loss(other, 1, ROWS) == loss
    names = [item["tinker_path"] for item in second.get(f"training_runs/{model}/checkpoints")["checkpoints"]]
    assert names == [saved["path"]]


def test_a_checkpoint_that_was_half_saved_is_saved_once(start: Any, tmp_path: Path) -> None:
    first = start()
    model = first.model()
    submit(first, model, 0)
    promise = first.post("save_weights", {"model_id": model, "seq_id": 3, "path": "one"})["request_id"]
    path = first.result(promise)["path"]
    second = start(state=left_behind(first, tmp_path / "after"))
    assert second.result(promise)["path"] == path
    folders = list((tmp_path / "after" / "models").glob("*/weights-*"))
    assert len(folders) == 1


def test_state_that_was_loaded_into_a_model_is_not_asked_of_its_checkpoint_again(
    start: Any, tmp_path: Path
) -> None:
    first = start()
    model = first.model()
    submit(first, model, 0)
    path = first.result(
        first.post("save_weights", {"model_id": model, "seq_id": 3, "path": "one"})["request_id"]
    )["path"]
    submit(first, model, 2)
    first.post("load_weights", {"model_id": model, "seq_id": 4, "path": path, "optimizer": True})
    first.post("optim_step", {"model_id": model, "seq_id": 7, "adam_params": {}})
    loss = first.loss(model, 8, ROWS)
    kind, _, name = path.removeprefix(f"tinker://{model}/").partition("/")
    assert first.ask("DELETE", f"/api/v1/training_runs/{model}/checkpoints/{kind}/{name}").status == 204
    second = start(state=left_behind(first, tmp_path / "after"))
    assert second.loss(model, 9, ROWS) == loss


def test_silent_sessions_free_their_memory_and_come_back(start: Any) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    tinker = start(options={"clock": lambda: now[0]})
    model = tinker.model()
    submit(tinker, model, 0)
    told(tinker, model, 0)
    loss = tinker.loss(model, 3, ROWS)
    now[0] += timedelta(hours=2)
    tinker.later(tinker.app.state.service.tidy()).result(30)
    assert tinker.backend.clients[0].closed
    assert tinker.ask("GET", "/crucible/status").json()["models_open"] == 0
    assert tinker.loss(model, 4, ROWS) == loss
    assert len(tinker.backend.clients) == 2


def test_a_state_that_cannot_be_written_now_is_written_later(start: Any) -> None:
    tinker = start(backend=BigramBackend(fail={"save_state": 0}), limits={"snapshot_steps": 2})
    model = tinker.model()
    for step in range(6):
        submit(tinker, model, step)
    assert told(tinker, model, 5)
    assert list(tinker.settings.state.glob("models/*/snapshot-*"))


class Flaky:
    """Calls go through but the one with that number."""

    def __init__(self, call: Callable[..., Any], error: Exception, *, fail: int) -> None:
        self.call, self.error, self.fail, self.count = call, error, fail, 0

    def __call__(self, *args: Any) -> Any:
        self.count += 1
        if self.count == self.fail:
            raise self.error
        return self.call(*args)


def test_a_state_that_could_not_be_named_is_removed_and_the_older_one_stays(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tinker = start(limits={"snapshot_steps": 1})
    store = tinker.app.state.service.store
    full = StorageError(what="the disk is full", where="state", remedy="free some space")
    monkeypatch.setattr(store, "cover", Flaky(store.cover, full, fail=2))
    model = tinker.model()
    for step in range(3):
        submit(tinker, model, step)
    loss = tinker.loss(model, 7, ROWS)
    assert sum(line.startswith("submit save_state") for line in tinker.backend.journal) == 3
    assert len(list(tinker.settings.state.glob("models/*/snapshot-*"))) == 1
    tinker.stop()
    assert start().loss(model, 8, ROWS) == loss


def test_a_model_whose_memory_was_freed_goes_on_although_its_state_could_not_be_written(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    tinker = start(options={"clock": lambda: now[0]})
    model = tinker.model()
    submit(tinker, model, 0)
    told(tinker, model, 0)
    loss = tinker.loss(model, 3, ROWS)
    now[0] += timedelta(hours=2)
    service = tinker.app.state.service
    monkeypatch.setattr(service.store, "cover", Flaky(service.store.cover, OSError("disk"), fail=1))
    with pytest.raises(OSError, match="disk"):
        tinker.later(service.tidy()).result(30)
    assert tinker.backend.clients[0].closed
    assert tinker.loss(model, 4, ROWS) == loss


def test_a_finished_session_leaves_only_its_checkpoints(start: Any) -> None:
    tinker = start(limits={"snapshot_steps": 1})
    model = tinker.model()
    submit(tinker, model, 0)
    promise = tinker.post("save_weights", {"model_id": model, "seq_id": 3, "path": "one"})
    tinker.result(promise["request_id"])
    tinker.post("save_weights_for_sampler", {"model_id": model, "seq_id": 4, "sampling_session_seq_id": 0})
    tinker.post(f"sessions/{model.split(':')[0]}/finish", {"reason": {"type": "errored"}, "detail": "x"})
    kinds = [path.name.split("-")[0] for path in tinker.settings.state.glob("models/*/*")]
    assert kinds == ["weights"]


def test_one_state_folder_has_one_server(start: Any) -> None:
    state = start().settings.state
    with pytest.raises(StorageError, match="another server uses this state"):
        StateStore(state)


def test_a_model_that_was_being_made_is_made_anew(start: Any, tmp_path: Path) -> None:
    first = start()
    session = first.session()
    first.app.state.service.store.put(
        "models", f"{session}:train:0", session, {"session_id": session, "status": "creating", "created": "x"}
    )
    second = start(state=left_behind(first, tmp_path / "after"))
    assert second.model(session) == f"{session}:train:0"
    assert second.get("training_runs")["training_runs"][0]["base_model"] == MODEL


@pytest.mark.parametrize(("rest", "written"), [(0.0, 3), (1e9, 1)])
def test_writing_the_state_never_takes_more_than_a_share_of_the_time(
    start: Any, rest: float, written: int
) -> None:
    tinker = start(limits={"snapshot_steps": 2, "snapshot_rest": rest})
    model = tinker.model()
    for step in range(7):
        submit(tinker, model, step)
    told(tinker, model, 6)
    assert sum(line.startswith("submit save_state") for line in tinker.backend.journal) == written
