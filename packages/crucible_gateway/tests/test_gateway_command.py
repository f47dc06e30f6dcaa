"""``crucible serve``: what it refuses before it serves, and a server of its own that is killed."""

import errno
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from crucible_gateway.listening import address_of, listen
from crucible_gateway.serve import serve
from crucible_gateway.tinker.status import fetch_status
from crucible_gateway.tinker.store import StateStore
from crucible_ir import ConfigError, NotFoundError, ServiceError, StorageError
from crucible_kitchen.cli.main import main
from crucible_testing.backend import write_bigram_model

PROGRAM = """
import sys
from pathlib import Path
import uvicorn
from crucible_gateway.listening import listen
from crucible_gateway.serve import run_server
from crucible_gateway.tinker.settings import ServedModel, TinkerSettings
from crucible_testing.backend import BigramBackend

model, state = sys.argv[1:]
served = ServedModel(name="Big/gram", source=model, tokenizer_id=model)
settings = TinkerSettings(models=(served,), state=Path(state))
run_server(BigramBackend(), settings, listening=listen("127.0.0.1", 0), as_json=True)
"""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"action": "tinkre"}, "did you mean 'tinker'"),
        ({"action": "tinker"}, "no model is named"),
        ({"action": "tinker", "model": ["a/b", "a/b"]}, "served twice"),
        ({"action": "tinker", "model": [""]}, "names no model"),
        ({"action": "tinker", "model": ["=folder"]}, "names no model"),
        ({"action": "tinker", "model": ["name="]}, "names no model"),
        ({"action": "tinker", "model": ["a/b"], "host": "0.0.0.0"}, "no key is asked for"),
        ({"action": "tinker", "model": ["a/b"], "api_key_env": "NOT_SET"}, "NOT_SET is not set"),
        ({"action": "tinker", "model": ["a/b"], "manifest": "offlin"}, "offline"),
        ({"action": "tinker", "model": ["a/b"], "url": "http://x"}, "serve tinker: --url belongs to"),
        ({"action": "status", "url": "nowhere"}, "is no address"),
        (
            {"action": "status", "port": 8040},
            "serve status: --port belongs to crucible serve tinker; leave it",
        ),
        (
            {"action": "status", "model": ["a/b"], "host": "::1", "manifest": "dev", "home": Path()},
            "--model, --host, --manifest, --home belong to",
        ),
    ],
)
def test_what_cannot_be_served_is_told_at_once(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    usual = {"port": 0, "state": tmp_path} if settings["action"] != "status" else {}
    with pytest.raises(ConfigError, match=said):
        serve(**{**usual, **settings})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told_before_a_port_is_taken() -> None:
    with pytest.raises(NotFoundError):
        serve("tinker", model=["./nowhere"])


@pytest.mark.parametrize(
    ("refused", "port", "said"),
    [
        (None, 65536, "65536 is no port"),
        (None, -1, "-1 is no port"),
        (errno.EADDRNOTAVAIL, 0, "this machine cannot listen at '127.0.0.1'"),
        (errno.EACCES, 80, "this user may not listen at port 80"),
    ],
)
def test_where_nobody_can_listen_is_told(
    refused: int | None, port: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(refused, "refused")

    if refused is not None:
        monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(ConfigError, match=said):
        listen("127.0.0.1", port)


def test_a_port_that_is_in_use_is_told_and_the_state_is_free_again(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        assert address_of(other) == f"http://127.0.0.1:{port}"
        for _ in range(2):
            with pytest.raises(ConfigError, match=f"something listens at port {port}"):
                serve("tinker", model=["a/b"], port=port, state=tmp_path / "state", home=tmp_path)


def test_no_server_where_one_is_asked_is_a_service_error() -> None:
    with pytest.raises(ServiceError, match="no answer"):
        fetch_status("http://127.0.0.1:1", None)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[[], tuple[str, subprocess.Popen[str]]]]:
    """Starts a server in a process of its own; gives its address."""
    model = write_bigram_model(tmp_path / "model")
    with ExitStack() as running:

        def begin() -> tuple[str, subprocess.Popen[str]]:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(model), str(tmp_path / "state")],
                stdout=subprocess.PIPE,
                text=True,
            )
            running.callback(process.wait)
            running.callback(process.kill)
            assert process.stdout is not None
            running.callback(process.stdout.close)
            lines = []
            while not lines or lines[-1] != "}\n":
                lines.append(process.stdout.readline())
                assert lines[-1], "the server ended"
            return str(json.loads("".join(lines))["url"]), process

        yield begin


def post(url: str, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"{url}/api/v1/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def trained(url: str, model: str, steps: range) -> list[float]:
    data = {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
        "loss_fn_inputs": {
            "target_tokens": {"data": [2, 3], "dtype": "int64", "shape": [2]},
            "weights": {"data": [1.0, 1.0], "dtype": "float32", "shape": [2]},
        },
    }
    work = {"forward_backward_input": {"data": [data], "loss_fn": "cross_entropy"}, "model_id": model}
    ids = []
    for step in steps:
        ids.append(post(url, "forward_backward", {**work, "seq_id": 2 * step + 1})["request_id"])
        post(
            url,
            "optim_step",
            {"model_id": model, "seq_id": 2 * step + 2, "adam_params": {"learning_rate": 0.1}},
        )
    return [post(url, "retrieve_future", {"request_id": id})["metrics"]["loss:sum"] for id in ids]


def test_training_goes_on_after_a_kill_as_if_nothing_had_been(
    launch: Callable[[], tuple[str, subprocess.Popen[str]]],
) -> None:
    url, process = launch()
    session = post(url, "create_session", {})["session_id"]
    models = []
    for number in (0, 1):
        body = {
            "session_id": session,
            "model_seq_id": number,
            "base_model": "Big/gram",
            "lora_config": {"rank": 4},
        }
        promise = post(url, "create_model", body)["request_id"]
        models.append(post(url, "retrieve_future", {"request_id": promise})["model_id"])
    wanted = trained(url, models[0], range(12))
    found = trained(url, models[1], range(5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    url, process = launch()
    found += trained(url, models[1], range(5, 12))
    assert found == wanted
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) in (0, -signal.SIGTERM)


def test_status_is_told_by_the_command(
    launch: Callable[[], tuple[str, subprocess.Popen[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, _ = launch()
    assert main(["serve", "status", "--url", url]) == 0
    assert "sessions_active" in capsys.readouterr().out
    assert main(["serve", "status", "--url", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == ["Big/gram"]


def test_a_folder_that_another_server_uses_is_told_before_a_port_is_taken(start: Any, tmp_path: Path) -> None:
    state = start().settings.state
    with pytest.raises(StorageError, match="end the server that uses this folder"):
        serve("tinker", model=["a/b"], state=state, home=tmp_path)


def test_a_server_keeps_its_folder_from_the_first_moment_in_every_life(tmp_path: Path) -> None:
    for _ in range(2):
        store = StateStore(tmp_path)
        with pytest.raises(StorageError, match="another server uses this state"):
            StateStore(tmp_path)
        store.close()


def test_state_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "gateway.sqlite").write_bytes(b"no database, " * 100)
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="cannot be opened"):
            StateStore(folder)
