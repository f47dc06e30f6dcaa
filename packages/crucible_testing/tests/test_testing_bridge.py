"""The bridge in the test's own process keeps the promises of the port."""

from __future__ import annotations

import pytest

from crucible_testing.bridge import FakeBridge
from crucible_testing.contracts.python_bridge import PythonBridgeContract


class TestFakeBridge(PythonBridgeContract):
    @pytest.fixture
    def bridge(self) -> FakeBridge:
        return FakeBridge(faults={"hang": "timeout", "crash": "crash", "greedy": "memory"})


def test_the_fake_keeps_every_call() -> None:
    bridge = FakeBridge()
    bridge.call("echo", {"value": 1}).result()
    bridge.call("fail", {"message": "no"}).result()
    assert bridge.calls == [("echo", {"value": 1}), ("fail", {"message": "no"})]
