"""Training through the server: order, sums, steps that are never partial, and the same numbers as without it."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_testing.backend import BigramBackend
from crucible_testing.gateway import MODEL, PROTOBUF, Tinker, forward_backward_body
from crucible_train.ports import TrainingSpec
from crucible_train.types import AdamParams, Datum, LoraConfig, ModelInput, TensorData

ROWS = [[1, 2, 3, 4], [5, 6, 7]]


def direct(tmp_path: Path, steps: int, rows: list[list[int]] = ROWS) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of the engine itself."""

    async def run() -> tuple[list[float], list[float]]:
        backend = BigramBackend()
        spec = TrainingSpec(
            base_model=str(tmp_path / "model"),
            lora=LoraConfig(rank=4),
            seed=7,
            checkpoint_dir=tmp_path / "direct",
        )
        client = await backend.create_training_client(spec)
        data = [
            Datum(
                ModelInput.from_ints(row[:-1]),
                {
                    "target_tokens": TensorData.of(row[1:]),
                    "weights": TensorData.of(np.ones(len(row) - 1, dtype=np.float32)),
                },
            )
            for row in rows
        ]
        losses, norms = [], []
        for _ in range(steps):
            losses.append((await client.forward_backward(data)).metrics["loss:sum"])
            stepped = await client.optim_step(AdamParams(learning_rate=0.1, eps=1e-12))
            norms.append(stepped.metrics["unclipped_grad_l2:mean"])
        return losses, norms

    return asyncio.run(run())


def test_losses_and_norms_are_those_of_the_engine_itself(tinker: Tinker, tmp_path: Path) -> None:
    model = tinker.model()
    promises = []
    for step in range(4):
        promises.append((tinker.train(model, 2 * step + 1, ROWS), tinker.step(model, 2 * step + 2)))
    losses = [tinker.result(first).metrics["loss:sum"] for first, _ in promises]
    norms = [tinker.result(second)["metrics"]["unclipped_grad_l2:mean"] for _, second in promises]
    assert (losses, norms) == direct(tmp_path, 4)


def test_requests_are_done_by_their_numbers_and_not_as_they_come(tinker: Tinker, tmp_path: Path) -> None:
    model = tinker.model()
    ids = {
        4: tinker.step(model, 4),
        3: tinker.train(model, 3, ROWS),
        2: tinker.step(model, 2),
        1: tinker.train(model, 1, ROWS),
    }
    losses = [tinker.result(ids[seq]).metrics["loss:sum"] for seq in (1, 3)]
    assert losses == direct(tmp_path, 2)[0]


def test_the_parts_of_one_batch_add_up_to_it(tinker: Tinker, tmp_path: Path) -> None:
    model = tinker.model()
    second = tinker.train(model, 2, ROWS[1:])
    first = tinker.train(model, 1, ROWS[:1])
    step = tinker.step(model, 3)
    losses, norms = direct(tmp_path, 1)
    parts = [tinker.result(id).metrics["loss:sum"] for id in (first, second)]
    assert sum(parts) == pytest.approx(losses[0], rel=1e-12)
    assert tinker.result(step)["metrics"]["unclipped_grad_l2:mean"] == pytest.approx(norms[0], rel=1e-12)


def test_a_request_that_comes_twice_is_done_once(tinker: Tinker) -> None:
    model = tinker.model()
    first = tinker.train(model, 1, ROWS)
    assert tinker.train(model, 1, ROWS) == first
    tinker.result(first)
    assert tinker.train(model, 1, ROWS) == first
    assert tinker.step(model, 2) == tinker.step(model, 2)
    tinker.result(f"{model}:2")
    assert [line for line in tinker.backend.journal if line.startswith("submit")] == [
        "submit forward_backward 0",
        "submit optim_step 0",
    ]


def test_forward_leaves_gradients_alone(tinker: Tinker, tmp_path: Path) -> None:
    model = tinker.model()
    tinker.train(model, 1, ROWS)
    tinker.train(model, 2, ROWS, forward_only=True)
    step = tinker.result(tinker.step(model, 3))
    assert step["metrics"]["unclipped_grad_l2:mean"] == direct(tmp_path, 1)[1][0]


def test_weights_are_never_normalised_and_may_be_negative(tinker: Tinker) -> None:
    model = tinker.model()
    one = tinker.result(tinker.train(model, 1, ROWS, forward_only=True)).metrics["loss:sum"]
    ten = tinker.result(tinker.train(model, 2, ROWS, forward_only=True, weight=-10.0)).metrics["loss:sum"]
    assert ten == pytest.approx(-10 * one)


def test_models_of_one_base_do_not_touch_each_other(tinker: Tinker, tmp_path: Path) -> None:
    session = tinker.session()
    models = [tinker.model(session, number=number) for number in range(3)]
    for seq in (1, 3):
        for model in models:
            tinker.train(model, seq, ROWS)
            tinker.step(model, seq + 1)
    wanted = direct(tmp_path, 2)[0]
    for model in models:
        assert [tinker.result(f"{model}:{seq}").metrics["loss:sum"] for seq in (1, 3)] == wanted


def test_creating_a_model_twice_makes_one(tinker: Tinker) -> None:
    session = tinker.session()
    assert tinker.model(session) == tinker.model(session)
    assert len(tinker.backend.clients) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_model": "Big/gra"}, "did you mean 'Big/gram'"),
        ({"optimizer_config": {"type": "dimuon"}}, "dimuon"),
        ({"lora_config": {"rank": 0}}, "rank"),
    ],
)
def test_a_model_that_cannot_be_made_fails_as_the_users_own(
    tinker: Tinker, change: dict[str, Any], said: str
) -> None:
    session = tinker.session()
    body = {"session_id": session, "model_seq_id": 0, "base_model": MODEL, "lora_config": {"rank": 4}}
    answer = tinker.ask("POST", "/api/v1/create_model", {**body, **change})
    told = answer.json() if answer.status != 200 else tinker.result(answer.json()["request_id"])
    assert told["category"] == "user"
    assert said in told["error"]


def test_a_failed_part_is_never_stepped_over(tinker: Tinker, tmp_path: Path) -> None:
    model = tinker.model()
    good = tinker.train(model, 1, ROWS)
    bad = tinker.train(model, 2, ROWS, loss="ppoo")
    step = tinker.step(model, 3)
    assert "loss:sum" in tinker.result(good).metrics
    assert tinker.result(bad)["category"] == "user"
    refused = tinker.result(step)
    assert refused["category"] == "user"
    assert "request 2 failed" in refused["error"]
    again = tinker.train(model, 4, ROWS)
    stepped = tinker.result(tinker.step(model, 5))["metrics"]["unclipped_grad_l2:mean"]
    assert tinker.result(again).metrics["loss:sum"] == direct(tmp_path, 1)[0][0]
    assert stepped == direct(tmp_path, 1)[1][0]


def test_gradients_of_the_good_parts_of_a_failed_step_are_dropped(start: Any, tmp_path: Path) -> None:
    tinker = start(backend=BigramBackend(fail={"forward_backward": 2}))
    model = tinker.model()
    ids = [tinker.train(model, seq, ROWS) for seq in (1, 2, 3)]
    refused = tinker.result(tinker.step(model, 4))
    assert [isinstance(tinker.result(id), dict) for id in ids] == [False, False, True]
    assert "request 3 failed" in refused["error"]
    tinker.train(model, 5, ROWS)
    stepped = tinker.result(tinker.step(model, 6))["metrics"]["unclipped_grad_l2:mean"]
    assert stepped == direct(tmp_path, 1)[1][0]


def test_a_failed_step_leaves_those_alone_that_were_sent_before_it_was_known(
    start: Any, tmp_path: Path
) -> None:
    tinker = start(backend=BigramBackend(fail={"forward_backward": 1}))
    losses, norms = direct(tmp_path, 2)
    model = tinker.model()
    steps = {seq: tinker.step(model, seq) for seq in (2, 4, 6)}
    parts = {seq: tinker.train(model, seq, ROWS) for seq in (3, 5, 1)}
    assert tinker.result(parts[3])["category"] == "server"
    assert "no gradients" in tinker.result(steps[4])["error"]
    assert [tinker.result(parts[seq]).metrics["loss:sum"] for seq in (1, 5)] == losses
    assert [tinker.result(steps[seq])["metrics"]["unclipped_grad_l2:mean"] for seq in (2, 6)] == norms


def test_a_fault_of_the_engine_is_the_servers_and_not_the_users(start: Any) -> None:
    tinker = start(backend=BigramBackend(fail={"forward_backward": 0}))
    model = tinker.model()
    assert tinker.result(tinker.train(model, 1, ROWS))["category"] == "server"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("optim_step", {"adam_params": {"learning_rate": -1}}, "learning_rate"),
        ("optim_step", {"adam_params": {"learning_rate": "x"}}, "learning_rate"),
        ("optim_step", {}, "params"),
        ("optim_step", {"optimizer_params": {"type": "dimuon", "learning_rate": 1}}, "dimuon"),
        ("save_weights", {"path": "a/b"}, "cannot name a checkpoint"),
        ("save_weights", {"path": "a", "ttl_seconds": 0}, "ttl_seconds"),
        ("save_weights_for_sampler", {}, "sampling_session_seq_id"),
        ("save_weights_external", {"path": "e", "age_encryption_recipients": ["age1"]}, "encrypt"),
        ("load_weights", {"path": "tinker://x/weights/y", "optimizer": True}, "there is no checkpoint"),
        ("load_weights", {"path": "nonsense", "optimizer": True}, "checkpoint path"),
    ],
)
def test_a_bad_request_fails_in_its_turn_and_the_next_is_done(
    tinker: Tinker, path: str, body: dict[str, Any], said: str
) -> None:
    model = tinker.model()
    promise = tinker.post(path, {"model_id": model, "seq_id": 1, **body})
    told = tinker.result(promise["request_id"])
    assert told["category"] == "user"
    assert said in told["error"]
    assert tinker.loss(model, 2, ROWS) > 0


@pytest.mark.parametrize("loss", ["stable_reinforce", "custom", "cross_entropi"])
def test_a_loss_that_is_not_there_is_refused_by_name(tinker: Tinker, loss: str) -> None:
    told = tinker.result(tinker.train(tinker.model(), 1, ROWS, loss=loss))
    assert told["category"] == "user"
    assert loss in told["error"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("forward_backward", b"\xff\xff", 422),
        ("optim_step", {"seq_id": 1}, 422),
        ("optim_step", {"model_id": "x:train:0", "seq_id": 1}, 404),
        ("get_info", {"model_id": "x"}, 404),
        ("create_session", b"{", 422),
        ("create_model", {"session_id": "nobody", "model_seq_id": 0, "base_model": MODEL}, 404),
        ("load_weights", {"path": "tinker://x/weights/y", "optimizer": False}, 422),
        ("asample", {"prompt": {"chunks": []}}, 422),
        ("asample", {"prompt": {"chunks": []}, "sampling_session_id": "s", "seq_id": 0}, 404),
    ],
)
def test_what_names_no_place_in_a_queue_is_refused_at_once(
    tinker: Tinker, path: str, body: Any, status: int
) -> None:
    headers = {"content-type": PROTOBUF} if path == "forward_backward" else {}
    answer = tinker.ask("POST", f"/api/v1/{path}", body, headers=headers)
    assert answer.status == status
    assert answer.json()["category"] == "user"


def test_a_model_takes_the_next_number_where_a_client_gives_none(tinker: Tinker) -> None:
    model = tinker.model()
    first = tinker.post(
        "forward_backward", forward_backward_body(model, 0, ROWS), **{"content-type": PROTOBUF}
    )
    second = tinker.post("optim_step", {"model_id": model, "adam_params": {}})
    assert [first["request_id"], second["request_id"]] == [f"{model}:1", f"{model}:2"]
    assert "metrics" in tinker.result(second["request_id"])


def test_a_finished_session_takes_no_more_work(tinker: Tinker) -> None:
    model = tinker.model()
    session = model.split(":")[0]
    tinker.result(tinker.train(model, 1, ROWS))
    assert tinker.post(f"sessions/{session}/finish", {"reason": {"type": "success"}}) == {}
    heartbeat = tinker.ask("POST", "/api/v1/session_heartbeat", {"session_id": session})
    assert heartbeat.status == 410
    late = tinker.ask("POST", "/api/v1/optim_step", {"model_id": model, "seq_id": 2, "adam_params": {}})
    assert late.status == 404
    assert tinker.backend.clients[0].closed
