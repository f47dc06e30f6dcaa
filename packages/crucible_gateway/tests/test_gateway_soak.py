"""Sixteen clients at once, some of which are killed or send nonsense, and a server that is killed amid it all."""

import http.client
import json
import os
import random
import resource
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from crucible_testing.backend import write_bigram_model
from crucible_testing.gateway import PROTOBUF, forward_backward_body
from crucible_testing.wire_client import Session, WireClient

CLIENTS = 16
STEPS = 8
SAVED_AFTER = 4
SECONDS = float(os.environ.get("CRUCIBLE_SOAK", "0"))
"""How long the soak takes under `make prove`; without it, it takes so many sessions:"""
SESSIONS = 20
KILLS = (0.03, 0.06, 0.1) if SECONDS else (0.1, 0.5)
"""When the server is killed, as shares of the soak; once more after its memory was measured for the last time."""
MEASURED_FROM = 0.2 if SECONDS else 0.7
"""Minute 2 of 10."""
GROWTH = 1.1
"""Of memory in eight minutes; within seconds, which models happen to be open decides."""
KEY = "tml-a-key-for-the-soak"
ROWS = [[1, 2, 3, 4] * 8, [5, 6, 7] * 9]
BODY_BYTES = 200_000

SERVER = """
import sys
from pathlib import Path
from crucible_gateway.listening import listen
from crucible_gateway.serve import run_server
from crucible_gateway.tinker.settings import Limits, ServedModel, TinkerSettings
from crucible_testing.backend import BigramBackend

class Forgetful(list):
    def append(self, item): pass

model, state, port, key, body_bytes = sys.argv[1:]
backend = BigramBackend()
backend.clients, backend._calls.lines = Forgetful(), Forgetful()  # the fake remembers all it did
served = ServedModel(name="Big/gram", source=model, tokenizer_id=model)
limits = Limits(snapshot_steps=4, snapshot_rest=0, body_bytes=int(body_bytes), waiting_samples=8)
settings = TinkerSettings(models=(served,), state=Path(state), api_key=key, limits=limits)
run_server(backend, settings, listening=listen("127.0.0.1", int(port)), as_json=True)
"""

CLIENT = """
import http.client, json, sys

port, key = int(sys.argv[1]), sys.argv[2]
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
for path, media, body in json.load(sys.stdin):
    headers = {"X-API-Key": key, "Content-Type": media}
    connection.request("POST", f"/api/v1/{path}", bytes.fromhex(body), headers)
    print(connection.getresponse().read().decode(), flush=True)
sys.stdin.close()
while True:  # waits for its result, amid a step
    connection.request("POST", "/api/v1/retrieve_future", json.dumps({"request_id": "nobody's"}), headers)
    connection.getresponse().read()
"""


class Server:
    """A server in a process of its own, on one port through all its lives."""

    def __init__(self, folder: Path) -> None:
        self._model = write_bigram_model(folder / "model")
        self._state = folder / "state"
        self.port = 0
        self.start()

    def start(self) -> None:
        words = [str(self._model), str(self._state), str(self.port), KEY, str(BODY_BYTES)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *words], stdout=subprocess.PIPE, text=True
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

    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * resource.getpagesize()

    def files(self) -> int:
        """Open files and connections."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))


class Course:
    """How far the soak is: by the time it takes, else by its sessions; and what was done."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._changed = threading.Condition()
        self._over = False
        self.done: Counter[str] = Counter()

    def share(self) -> float:
        """From 0 to 1."""
        return (time.monotonic() - self._begun) / SECONDS if SECONDS else self.done["sessions"] / SESSIONS

    def note(self, **counts: int) -> None:
        """Count what was done."""
        with self._changed:
            self.done.update(counts)
            self._changed.notify_all()

    def reach(self, share: float) -> None:
        """Wait until the soak is so far."""
        with self._changed:
            while self.share() < share:
                assert (
                    self._changed.wait_for(lambda: self.share() >= share, 1.0 if SECONDS else 300) or SECONDS
                )

    def end(self) -> None:
        """Let every client end with its session."""
        self._over = True

    def sessions(self) -> Iterator[int]:
        """Numbers of one client's sessions, until the soak ends."""
        number = 0
        while not self._over:
            yield number
            number += 1


class Life:
    """What one client does in all its sessions."""

    def __init__(self, number: int, server: Server, alive: threading.Event, course: Course) -> None:
        self._server, self._course = server, course
        self._dice = random.Random(number)
        self._number = number
        self.client = WireClient(lambda: server.port, KEY, alive)
        self._stranger = WireClient(lambda: server.port, "tml-another-key", alive)
        self._attacks: tuple[Callable[[str], None], ...] = (
            self._noise, self._damage, self._flood, self._endless, self._break_in, self._babble, self._break_off
        )  # fmt: skip

    def session(self, number: int = 0) -> list[bytes]:
        """One session from beginning to end: the bytes of everything it was told."""
        session = Session(self.client, ROWS)
        found = session.train(range(SAVED_AFTER))
        path = session.save(2 * SAVED_AFTER + 1, "middle")
        if self._number == 0 and number % 4 == 0:
            self.killed_amid(session)
        found += self._rest(session)
        found += [*session.resumed(path, SAVED_AFTER), session.samples(2 * STEPS + 3)]
        assert session.listed() == ["weights/middle"]
        session.delete("middle")
        assert session.listed() == []
        session.finish()
        self._course.note(sessions=1, steps=STEPS + 1, samples=4, saves=2)
        return found

    def _rest(self, session: Session) -> list[bytes]:
        """The steps after the save, whose numbers are one later, and the loss after the last of them."""
        found = []
        for step in range(SAVED_AFTER, STEPS):
            requests = session.step(step, seq=2 * step + 2)
            ids = [self.client.promise(request) for request in requests]
            found += [self.client.result(request, id) for request, id in zip(requests, ids, strict=True)]
        return [*found, session.loss(2 * STEPS + 2)]

    def abandoned(self) -> None:
        """A session whose client goes amid a step and never comes back."""
        session = Session(self.client, ROWS)
        steps = self._dice.randrange(STEPS)
        session.train(range(steps))
        self.client.promise(session.step(steps)[0])
        self.client.close()
        self._course.note(sessions_abandoned=1)

    def killed_amid(self, session: Session) -> None:
        """A process that sends the next step and is killed while it waits; whoever comes after sends it again."""
        requests = session.step(SAVED_AFTER, seq=2 * SAVED_AFTER + 2)
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(self._server.port), KEY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        sent = requests[: self._dice.randrange(1, 3)]  # with or without the optimiser's step
        with process, suppress(OSError):
            assert process.stdin is not None
            assert process.stdout is not None
            json.dump([(path, media, body.hex()) for path, body, media in sent], process.stdin)
            process.stdin.close()
            for _ in sent:
                process.stdout.readline()
            process.kill()
        self._course.note(clients_killed=1)

    def attack(self, model: str) -> None:
        """What must be refused and harm nobody, of each kind once; ``model`` is one that trains on."""
        for attack in self._attacks:
            attack(model)
            self._course.note(attacks=1)

    def _noise(self, model: str) -> None:
        for path in ("forward_backward", "optim_step", "asample", "create_model", "retrieve_future"):
            media = self._dice.choice([PROTOBUF, "application/json"])
            noise = self._dice.randbytes(self._dice.randrange(300))
            status, _ = self.client.ask("POST", f"/api/v1/{path}", noise, **{"Content-Type": media})
            assert status in (404, 410, 422), (path, status)

    def _damage(self, model: str) -> None:
        body = bytearray(forward_backward_body(model, 500 + self._dice.randrange(16), ROWS))
        for _ in range(3):
            body[self._dice.randrange(len(model) + 4, len(body))] = self._dice.randrange(256)
        status, _ = self.client.ask(
            "POST", "/api/v1/forward_backward", bytes(body), **{"Content-Type": PROTOBUF}
        )
        assert status in (200, 404, 422), status

    def _flood(self, model: str) -> None:
        self._once(413, self.client, "forward_backward", b"\0" * (BODY_BYTES + 1))

    def _endless(self, model: str) -> None:
        pieces = iter([b"\0" * 50_000] * 8)  # no length is told before
        self._once(413, self.client, "forward_backward", pieces)

    def _break_in(self, model: str) -> None:
        body = {"model_id": model, "seq_id": 1, "adam_params": {"learning_rate": 100.0}}
        self._once(401, self._stranger, "optim_step", json.dumps(body).encode())

    def _babble(self, model: str) -> None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._server.port), 10) as line:
            line.sendall(self._dice.randbytes(200) + b"\r\n\r\n")
            assert line.recv(1000)[:12] in (b"", b"HTTP/1.1 400")
        self._once(404, self.client, "no/such/path", b"{}")

    def _break_off(self, model: str) -> None:
        head = f"POST /api/v1/forward_backward HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\n"
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._server.port), 10) as line:
            line.sendall(
                f"{head}Content-Type: {PROTOBUF}\r\nContent-Length: 5000\r\n\r\n".encode() + b"\x0a" * 100
            )

    def _once(self, wanted: int, client: WireClient, path: str, body: Any) -> None:
        """An answer of that status, if there is one: a large body that is refused may break the connection."""
        with suppress(OSError, http.client.HTTPException):
            status, _ = client.once("POST", f"/api/v1/{path}", body, **{"Content-Type": PROTOBUF})
            assert status == wanted, (path, status)

    def lead(self, wanted: list[bytes]) -> None:
        """Sessions until the soak ends, each with the results of one that nothing disturbed."""
        try:
            victim = Session(self.client, ROWS)
            for number in self._course.sessions():
                if number == 0 and self._number in (1, 2):
                    self.abandoned()
                assert self.session(number) == wanted, f"client {self._number}, session {number}"
                self.attack(victim.model)
            victim.finish()
        finally:
            self.client.close()
            self._stranger.close()


def restarted(server: Server, alive: threading.Event) -> None:
    """The server killed amid whatever it does, and started again."""
    alive.clear()
    server.kill()
    server.start()
    alive.set()


def watched(server: Server, course: Course) -> list[int]:
    """Memory of the server from minute 2 to the end, every share of the soak."""
    found = []
    for turn in range(17):
        course.reach(MEASURED_FROM + (0.95 - MEASURED_FROM) * turn / 16)
        found.append(server.memory())
    return found


@pytest.mark.slow
def test_no_step_is_lost_or_doubled_and_nothing_grows(tmp_path: Path) -> None:
    alive = threading.Event()
    alive.set()
    with ExitStack() as ending:
        server = Server(tmp_path)
        ending.callback(lambda: server.kill())
        alone = Life(CLIENTS, server, alive, Course())
        ending.callback(alone.client.close)
        wanted = alone.session()
        course = Course()
        pool = ending.enter_context(ThreadPoolExecutor(CLIENTS))
        ending.callback(course.end)
        lives = [pool.submit(Life(number, server, alive, course).lead, wanted) for number in range(CLIENTS)]
        for share in KILLS:
            course.reach(share)
            restarted(server, alive)
        course.reach(MEASURED_FROM)
        files = server.files()
        memory = watched(server, course)
        files_at_the_end = server.files()
        restarted(server, alive)
        course.reach(1.0)
        course.end()
        for life in lives:
            life.result(600)
        status = alone.client.get("/crucible/status")
        tell(course, memory, (files, files_at_the_end))
    assert course.done["clients_killed"] >= 1
    assert status["samples_waiting"] == status["requests_waiting"] == 0
    assert files_at_the_end <= 4 * CLIENTS  # each client has up to three connections, the server a few files
    assert status["models_open"] <= course.done["sessions_abandoned"]
    assert not SECONDS or statistics.median(memory[-3:]) <= GROWTH * statistics.median(memory[:3])


def tell(course: Course, memory: list[int], files: tuple[int, int]) -> None:
    """The figures, for the evidence."""
    path = os.environ.get("PROOF_FIGURES")
    if path:
        figures = {
            "clients": CLIENTS,
            "seconds": SECONDS,
            "server_kills": len(KILLS) + 1,
            **course.done,
            "resident_mb_from_minute_2": [round(value / 1e6, 1) for value in memory],
            "memory_ratio": round(statistics.median(memory[-3:]) / statistics.median(memory[:3]), 4),
            "open_files": files,
        }
        Path(path).write_text(json.dumps(figures), encoding="utf-8")
