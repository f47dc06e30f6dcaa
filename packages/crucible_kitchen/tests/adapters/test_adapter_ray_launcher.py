"""The Ray launcher on a real Ray head of this machine, with token authentication."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crucible_ir import ConfigError, ServiceError
from crucible_kitchen.adapters.ray_launcher import RayLauncher
from crucible_testing.contracts.launcher import LauncherContract
from crucible_train.ports import Job, Launcher, Resources

TOKEN = "a-token-of-this-test"
PROGRAM = Path(sys.executable).with_name("ray")

# Ray's client warns of its own sockets and of what it is to change.
pytestmark = [
    pytest.mark.sdk("ray"),
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray head, which ends with the tests."""
    port, board = free_port(), free_port()
    place = Path("/tmp") / f"ray-{os.getpid()}"  # Ray's sockets need a short path
    words = [f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=4", f"--temp-dir={place}"]
    words += [f"--dashboard-port={board}", "--dashboard-host=127.0.0.1", "--disable-usage-stats", "--block"]
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_JOB_STOP_WAIT_TIME_S": "20"}
    log = tmp_path_factory.mktemp("ray") / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PROGRAM, "start", "--head", *words], env=env, stdout=output, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{board}"
    try:
        while not answers(board):
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


class TestRayLauncher(LauncherContract):
    missing = "raysubmit_of_nobody"
    guard_s = 180.0

    @pytest.fixture
    def new_launcher(self, head: str) -> Callable[[], Launcher]:
        return lambda: RayLauncher(address=head, token=TOKEN, python=sys.executable, cpus=1)

    @pytest.fixture
    def launcher(self, new_launcher: Callable[[], Launcher]) -> Launcher:
        return new_launcher()

    def test_without_the_token_it_is_refused(self, head: str, make_job: Callable[..., Job]) -> None:
        with pytest.raises(ServiceError, match="Ray refuses or does not answer"):
            RayLauncher(address=head).submit(make_job("say"))

    def test_several_nodes_are_refused(self, launcher: Launcher, make_job: Callable[..., Job]) -> None:
        with pytest.raises(ConfigError, match="nodes = 2"):
            launcher.submit(make_job("say", resources=Resources(nodes=2)))
