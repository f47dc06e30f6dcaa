"""The pytest plugin, seen from real pytest processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crucible_testing.plugin import DATA_VARIABLE, NetworkBlockedError

MARKED = """
import pytest

def test_plain():
    pass

@pytest.mark.real
def test_real(shared_data):
    assert shared_data.is_dir()

@pytest.mark.key("CRUCIBLE_NO_SUCH_KEY")
def test_key():
    pass

@pytest.mark.key
def test_default_key():
    pass

@pytest.mark.sdk("crucible_no_such_module")
def test_sdk():
    pass

@pytest.mark.sdk("json")
def test_sdk_that_is_there():
    pass
"""


def run_pytest(folder: Path, text: str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    clean = {
        k: v for k, v in os.environ.items() if k not in {DATA_VARIABLE, "TINKER_API_KEY", "PYTEST_ADDOPTS"}
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={**clean, DATA_VARIABLE: str(folder / "absent"), **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_cannot_run_is_counted_by_reason(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, MARKED)
    assert "not run: 1 real (no data folder; set CRUCIBLE_DATA)" in done.stdout
    assert "not run: 1 key (CRUCIBLE_NO_SUCH_KEY is not set)" in done.stdout
    assert "not run: 1 key (TINKER_API_KEY is not set)" in done.stdout
    assert (
        "not run: 1 sdk (crucible_no_such_module is not installed; an environment of tox brings it)"
        in done.stdout
    )
    assert "2 passed, 4 deselected" in done.stdout.splitlines()[-1]


def test_the_same_counts_come_out_of_parallel_workers(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, MARKED, "-n", "2")
    assert "not run: 1 real (no data folder; set CRUCIBLE_DATA)" in done.stdout
    assert "2 passed" in done.stdout.splitlines()[-1]


def test_a_test_runs_where_its_need_is_met(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    env = {DATA_VARIABLE: str(data), "CRUCIBLE_NO_SUCH_KEY": "k", "TINKER_API_KEY": "k"}
    done = run_pytest(tmp_path, MARKED, **env)
    assert "not run: 1 sdk" in done.stdout
    assert "5 passed" in done.stdout.splitlines()[-1]


def test_shared_data_without_the_real_mark_fails_where_the_folder_is_absent(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "def test_it(shared_data):\n    pass\n")
    assert "mark this test with @pytest.mark.real" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize("host", ["192.0.2.1", "example.com", "2001:db8::1"])
def test_a_connection_to_another_host_is_refused(host: str) -> None:
    with pytest.raises(NetworkBlockedError, match="loopback"):
        socket.create_connection((host, 80), timeout=0.01)


def test_a_socket_cannot_go_round_name_lookup() -> None:
    with socket.socket() as sock:
        with pytest.raises(NetworkBlockedError):
            sock.connect(("192.0.2.1", 80))
        with pytest.raises(NetworkBlockedError):
            sock.connect_ex(("192.0.2.1", 80))


def test_loopback_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(("localhost", address[1])) as client:
            assert client.getpeername() == address


def test_rng_is_the_same_generator_in_every_test(rng: np.random.Generator) -> None:
    assert isinstance(rng.bit_generator, np.random.PCG64)
    assert rng.integers(1 << 30) == np.random.Generator(np.random.PCG64(20260701)).integers(1 << 30)
