"""The worker processes of the math bridge: limits, healing, isolation."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crucible_ir import AdapterError, ConfigError
from crucible_kitchen.adapters.math_bridge import MATH_FUNCTIONS, MathBridge
from crucible_kitchen.adapters.noop_bridge import NoopBridge
from crucible_testing.bridge_functions import PROBES
from crucible_testing.contracts.python_bridge import PythonBridgeContract


@pytest.fixture
def bridge() -> Iterator[MathBridge]:
    made = MathBridge(workers=1, memory_mb=256, functions=PROBES)
    yield made
    asyncio.run(made.close())


def pid_of(bridge: MathBridge) -> int:
    reply = bridge.call("process_id", {}).result(60)
    assert isinstance(reply.value, int), reply
    return reply.value


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


class TestMathBridge(PythonBridgeContract):
    @pytest.fixture
    def bridge(self) -> Iterator[MathBridge]:
        made = MathBridge(workers=2, memory_mb=256, functions=PROBES)
        yield made
        asyncio.run(made.close())


class TestNoopBridge(PythonBridgeContract):
    runs = False

    @pytest.fixture
    def bridge(self) -> NoopBridge:
        return NoopBridge()


def test_no_process_starts_before_the_first_call() -> None:
    before = set(Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text().split())
    made = MathBridge(workers=4)
    after = set(Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text().split())
    assert after <= before
    assert list(made.functions()) == sorted(MATH_FUNCTIONS)
    asyncio.run(made.close())


def test_a_worker_that_behaves_is_used_again(bridge: MathBridge) -> None:
    assert pid_of(bridge) == pid_of(bridge)
    assert bridge.call("fail", {"message": "no"}).result(60).message == "ValueError: no"
    assert pid_of(bridge) == pid_of(bridge)


def test_a_worker_that_hangs_in_native_code_is_killed(bridge: MathBridge) -> None:
    pid = pid_of(bridge)
    reply = bridge.call("hang", {}, timeout_s=0.3).result(60)
    assert reply.message == "no answer within 0.3 s; the worker was killed"
    assert is_gone(pid)
    assert pid_of(bridge) != pid


def test_a_crash_tells_the_signal(bridge: MathBridge) -> None:
    assert bridge.call("crash", {}).result(60).message == "the worker ended with SIGSEGV"


def test_memory_is_limited_and_a_value_reached_without_it_is_not_trusted(bridge: MathBridge) -> None:
    pid = pid_of(bridge)
    assert "MemoryError" in bridge.call("greedy", {}).result(60).message
    assert is_gone(pid)
    reply = bridge.call("swallow", {}).result(60)
    assert (reply.fault, reply.value) == ("memory", None)


def test_the_memory_of_the_caller_does_not_count(bridge: MathBridge) -> None:
    ballast = bytearray(b"x") * (300 << 20)
    assert bridge.call("echo", {"value": len(ballast)}).result(60).value == 300 << 20
    assert pid_of(bridge) == pid_of(bridge)


def test_a_worker_that_died_while_idle_is_replaced_unseen(bridge: MathBridge) -> None:
    pid = pid_of(bridge)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert pid_of(bridge) != pid


def test_a_worker_is_replaced_after_its_share_of_calls() -> None:
    made = MathBridge(workers=1, calls_per_worker=2, functions=PROBES)
    pids = [pid_of(made) for _ in range(6)]
    asyncio.run(made.close())
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 2]
    assert all(is_gone(pid) for pid in pids)


def test_closing_kills_the_busy_and_the_idle() -> None:
    made = MathBridge(workers=2, functions=PROBES)
    pid = pid_of(made)
    under_way = made.call("hang", {}, timeout_s=60)
    waiting = [made.call("hang", {}, timeout_s=60) for _ in range(3)]
    asyncio.run(made.close())
    assert {handle.result(60).fault for handle in [under_way, *waiting]} == {"crash"}
    assert is_gone(pid)


def test_workers_see_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEY", "planted-secret-value")
    made = MathBridge(workers=1, functions=PROBES)
    environment = Path(f"/proc/{pid_of(made)}/environ").read_bytes()
    asyncio.run(made.close())
    assert b"planted-secret-value" not in environment
    assert b"PATH=" in environment


def test_workers_end_with_a_caller_that_is_killed() -> None:
    code = (
        "import os, signal\n"
        "from crucible_kitchen.adapters.math_bridge import MathBridge\n"
        "from crucible_testing.bridge_functions import PROBES\n"
        "bridge = MathBridge(workers=1, functions=PROBES)\n"
        "print(bridge.call('process_id', {}).result().value, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        pid = int(caller.stdout.readline())
        descriptor = os.pidfd_open(pid) if not is_gone(pid) else None
        caller.wait(60)
    if descriptor is not None:
        import select

        assert select.select([descriptor], [], [], 30)[0], "the worker outlived its caller"
        os.close(descriptor)


def test_a_function_that_cannot_be_imported_is_told() -> None:
    made = MathBridge(workers=1, functions={"lost": "crucible_testing.bridge_functions:nowhere"})
    reply = made.call("lost", {}).result(60)
    asyncio.run(made.close())
    assert reply.fault == "unavailable"
    assert "nowhere" in reply.message


def test_limits_that_are_not_positive_are_refused_together() -> None:
    with pytest.raises(ConfigError) as raised:
        MathBridge(workers=0, timeout_s=-1.0)
    assert [problem.path for problem in raised.value.problems] == ["workers", "timeout_s"]


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AdapterError, match=r"sympy.*crucible-kitchen\[math\]"):
        MathBridge()
