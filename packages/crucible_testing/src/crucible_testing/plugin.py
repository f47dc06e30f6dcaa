"""The pytest plugin: no network, counted tests that this machine cannot run, seeded randomness, shared data.

Imports nothing of Crucible and nothing heavy: pytest loads it before coverage measurement starts.
"""

from __future__ import annotations

import importlib
import importlib.util
import ipaddress
import os
import shutil
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DATA_VARIABLE", "NetworkBlockedError", "data_folder"]

DATA_VARIABLE = "CRUCIBLE_DATA"
SEED = 20260701
DEFAULT_KEY = "TINKER_API_KEY"

pytest.register_assert_rewrite("crucible_testing.contracts")

_not_run = pytest.StashKey[Counter[str]]()
_sockets = pytest.StashKey[pytest.MonkeyPatch]()


class NetworkBlockedError(RuntimeError):
    """A test tried to reach a host other than this machine; the message names the address."""


# --- network -----------------------------------------------------------------------------------------------


def _is_loopback(host: object) -> bool:
    if host is None or host in ("", "localhost", b"localhost"):
        return True
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text.endswith(".localhost") or text == socket.gethostname()
    return address.is_loopback or address.is_unspecified


def _refuse(host: object) -> None:
    if not _is_loopback(host):
        raise NetworkBlockedError(
            f"a test tried to reach {host!r}; tests may only use this machine's loopback"
        )


def _guard_sockets(patch: pytest.MonkeyPatch) -> None:
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    lookup = socket.getaddrinfo

    def check(sock: socket.socket, address: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            _refuse(address[0])

    def guarded_connect(sock: socket.socket, address: Any) -> None:
        check(sock, address)
        connect(sock, address)

    def guarded_connect_ex(sock: socket.socket, address: Any) -> int:
        check(sock, address)
        return connect_ex(sock, address)

    def guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse(host)
        return lookup(host, *args, **kwargs)

    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    patch.setattr(socket, "getaddrinfo", guarded_lookup)


def pytest_configure(config: pytest.Config) -> None:
    """Closes the network for the session and knows the markers wherever the plugin is installed."""
    for line in (
        "slow: takes more than a few seconds",
        "gpu: needs a GPU",
        "key(variable): needs a service key in that environment variable",
        f"real: needs the shared data folder ({DATA_VARIABLE})",
        "sdk(module): needs a module that nothing here depends on",
    ):
        config.addinivalue_line("markers", line)
    config.stash[_not_run] = Counter()
    config.stash[_sockets] = patch = pytest.MonkeyPatch()
    _guard_sockets(patch)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Opens the network again, for whoever runs pytest from Python."""
    if _sockets in config.stash:
        config.stash[_sockets].undo()


# --- what cannot run here ----------------------------------------------------------------------------------


def data_folder(config: pytest.Config) -> Path:
    """Where the shared data would be: $CRUCIBLE_DATA, else ../shared/data beside the repository."""
    return Path(os.environ.get(DATA_VARIABLE) or config.rootpath.parent / "shared" / "data")


def _has_gpu() -> bool:
    if not (shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists()):
        return False
    if importlib.util.find_spec("torch") is None:
        return False
    return bool(importlib.import_module("torch").cuda.is_available())


def _reason(item: pytest.Item, gpu: bool | None) -> str | None:
    """Why `item` cannot run on this machine, or None."""
    if item.get_closest_marker("real") and not data_folder(item.config).is_dir():
        return f"real (no data folder; set {DATA_VARIABLE})"
    if gpu is False and item.get_closest_marker("gpu"):
        return "gpu (no CUDA device)"
    for marker in item.iter_markers("sdk"):
        if importlib.util.find_spec(marker.args[0]) is None:
            return f"sdk ({marker.args[0]} is not installed; an environment of tox brings it)"
    for marker in item.iter_markers("key"):
        variable = marker.args[0] if marker.args else DEFAULT_KEY
        if not os.environ.get(variable):
            return f"key ({variable} is not set)"
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Takes out, and counts, the tests that this machine cannot run."""
    counts: Counter[str] = config.stash[_not_run]
    gpu = _has_gpu() if any(item.get_closest_marker("gpu") for item in items) else None
    reasons = [(item, _reason(item, gpu)) for item in items]
    left_out = [item for item, reason in reasons if reason]
    counts.update(reason for _, reason in reasons if reason)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item, reason in reasons if not reason]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hands an xdist worker's counts to the process that reports."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        counts: Counter[str] = session.config.stash[_not_run]
        output["crucible_not_run"] = dict(counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes a worker's counts; every worker collects the same tests, so the largest count is the count."""
    counts: Counter[str] = node.config.stash[_not_run]
    for reason, count in getattr(node, "workeroutput", {}).get("crucible_not_run", {}).items():
        counts[reason] = max(counts[reason], count)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints what was not run and why, also when that is nothing."""
    counts: Counter[str] = config.stash[_not_run]
    terminalreporter.section("not run on this machine", sep="-")
    for reason, count in sorted(counts.items()):
        terminalreporter.write_line(f"not run: {count} {reason}")
    if not counts:
        terminalreporter.write_line("not run: nothing; every collected test was run")


# --- fixtures ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_data(pytestconfig: pytest.Config) -> Path:
    """The shared data folder; fails where it is absent, so use it only in tests marked `real`."""
    folder = data_folder(pytestconfig)
    if not folder.is_dir():
        pytest.fail(f"{folder} is not here; mark this test with @pytest.mark.real")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A PCG64 generator with the same seed in every test."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(SEED))
