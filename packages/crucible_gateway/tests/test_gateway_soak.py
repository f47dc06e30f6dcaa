"""Sixteen clients at once, some of which die or send nonsense, and a server that is killed amid it all."""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crucible_testing.backend import write_bigram_model
from crucible_testing.gateway import MODEL, PROTOBUF, forward_backward_body

CLIENTS = 16
STEPS = 10
SESSIONS = int(os.environ.get("CRUCIBLE_SOAK", "3"))
"""Sessions of each client, one after another; thousands of steps under `make prove`."""
KEY = "tml-a-key-for-the-soak"
ROWS = [[1, 2, 3, 4] * 8, [5, 6, 7] * 9]
GROWTH = 1.1

PROGRAM = """
import os, sys
from pathlib import Path
from crucible_gateway.listening import listen
from crucible_gateway.serve import run_server
from crucible_gateway.tinker.settings import Limits, ServedModel, TinkerSettings
from crucible_testing.backend import BigramBackend

class Forgetful(list):
    def append(self, item): pass

model, state, port, key = sys.argv[1:]
backend = BigramBackend()
backend.clients, backend._calls.lines = Forgetful(), Forgetful()  # the fake remembers all it did
served = ServedModel(name="Big/gram", source=model, tokenizer_id=model)
limits = Limits(snapshot_steps=4, body_bytes=200_000)
settings = TinkerSettings(models=(served,), state=Path(state), api_key=key, limits=limits)
run_server(backend, settings, listening=listen("127.0.0.1", int(port)), as_json=True)
"""


class Server:
    """A server in a process of its own, on one port through all its lives."""

    def __init__(self, folder: Path) -> None:
        self._model = write_bigram_model(folder / "model")
        self._state = folder / "state"
        self.port = 0
        self.start()

    def start(self) -> None:
        words = [str(self._model), str(self._state), str(self.port), KEY]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            lines.append(self._process.stdout.readline())
            assert lines[-1], "the server ended"
        self.port = int(json.loads("".join(lines))["url"].rpartition(":")[2])

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def status(self) -> dict[str, Any]:
        _, body = exchange(self.port, "GET", "/crucible/status", b"", "application/json")
        found: dict[str, Any] = json.loads(body)
        return found


def exchange(port: int, method: str, path: str, body: bytes, media: str, key: str = KEY) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": media, "X-API-Key": key, "Accept": PROTOBUF})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Client:
    """Asks as the SDK does: the same again while nobody answers, or while it is told to wait."""

    def __init__(self, server: Server, alive: threading.Event) -> None:
        self._server = server
        self._alive = alive

    def post(self, path: str, body: Any, media: str = "application/json") -> tuple[int, bytes]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        while True:
            self._alive.wait(60)
            try:
                status, told = exchange(self._server.port, "POST", f"/api/v1/{path}", data, media)
            except (OSError, http.client.HTTPException):
                continue
            if status not in (408, 429):
                return status, told

    def promise(self, path: str, body: Any, media: str = "application/json") -> str:
        status, told = self.post(path, body, media)
        assert status == 200, (path, status, told)
        return str(json.loads(told)["request_id"])

    def result(self, id: str) -> bytes:
        status, told = self.post("retrieve_future", {"request_id": id})
        assert status == 200, (id, status, told)
        return told

    def train(self, *, dies_at: int | None = None) -> list[bytes]:
        """One session: the bytes of every step's results; a client that dies leaves amid a step."""
        session = json.loads(self.post("create_session", {})[1])["session_id"]
        body = {"session_id": session, "model_seq_id": 0, "base_model": MODEL, "lora_config": {"rank": 4}}
        model = json.loads(self.result(self.promise("create_model", body)))["model_id"]
        found = []
        for step in range(STEPS):
            done = self.promise(
                "forward_backward", forward_backward_body(model, 2 * step + 1, ROWS), PROTOBUF
            )
            if step == dies_at:
                return found
            params = {"learning_rate": 0.1}
            stepped = self.promise(
                "optim_step", {"model_id": model, "seq_id": 2 * step + 2, "adam_params": params}
            )
            found += [self.result(done), self.result(stepped)]
        self.post(f"sessions/{session}/finish", {"reason": {"type": "success"}})
        return found

    def nonsense(self, dice: random.Random) -> None:
        """Requests that must be refused, and harm nobody."""
        noise = dice.randbytes(dice.randrange(300))
        for path in ("forward_backward", "optim_step", "asample", "create_model"):
            assert self.post(path, noise, dice.choice([PROTOBUF, "application/json"]))[0] in (404, 422)
        assert self.post("forward_backward", b"\x00" * 300_000, PROTOBUF)[0] == 413
        try:
            status, _ = exchange(
                self._server.port, "POST", "/api/v1/create_session", b"{}", "application/json", "no"
            )
        except (OSError, http.client.HTTPException):
            return
        assert status == 401


@pytest.mark.slow
def test_no_step_is_lost_or_doubled_and_nothing_grows(tmp_path: Path) -> None:
    server = Server(tmp_path)
    alive = threading.Event()
    alive.set()
    try:
        wanted = Client(server, alive).train()
        quarter = threading.Barrier(CLIENTS + 1)
        middle = threading.Barrier(CLIENTS + 1)

        def live(number: int) -> int:
            client, dice, sessions = Client(server, alive), random.Random(number), 0
            for turn in range(SESSIONS):
                if turn == SESSIONS // 3:
                    quarter.wait(300)
                if turn == (2 * SESSIONS) // 3:
                    middle.wait(300)
                dies = dice.randrange(STEPS) if number < 3 and turn == 0 else None
                found = client.train(dies_at=dies)
                assert found == wanted[: len(found)]
                assert dies is not None or len(found) == 2 * STEPS
                sessions += dies is None
                client.nonsense(dice)
            return sessions

        with ThreadPoolExecutor(CLIENTS) as pool:
            lives = [pool.submit(live, number) for number in range(CLIENTS)]
            quarter.wait(300)
            for _ in range(2):
                alive.clear()
                server.kill()
                server.start()
                alive.set()
            middle.wait(300)
            before = server.status()["resident_memory_bytes"]
            finished = sum(job.result(3600) for job in lives)
        status = server.status()
        assert finished == CLIENTS * SESSIONS - 3
        assert status["requests_waiting"] == status["samples_waiting"] == 0
        assert status["resident_memory_bytes"] <= GROWTH * before
    finally:
        server.kill()
