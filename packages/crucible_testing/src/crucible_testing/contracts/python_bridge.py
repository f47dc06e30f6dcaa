"""What every PythonBridge promises."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from crucible_ir import ConflictError, DataError, NotFoundError
from crucible_train.ports import BridgeReply, PythonBridge

__all__ = ["PythonBridgeContract"]


class PythonBridgeContract:
    """Inherit it and give ``bridge``, with the functions of ``crucible_testing.bridge_functions``.

    ``runs`` is False for a bridge that runs nothing: every call of it is answered ``unavailable``. ``guard_s`` bounds
    one call of those that hang.
    """

    runs = True
    guard_s = 0.5

    @pytest.fixture
    def bridge(self) -> Iterator[PythonBridge]:
        """The bridge under test."""
        raise NotImplementedError

    def test_it_fits_the_port(self, bridge: PythonBridge) -> None:
        assert isinstance(bridge, PythonBridge)

    def test_it_lists_its_functions_sorted(self, bridge: PythonBridge) -> None:
        names = list(bridge.functions())
        assert names == sorted(names)
        assert ("echo" in names) == self.runs

    @pytest.mark.parametrize(
        "value", [None, 1, -2.5, "x = \\frac{1}{2}\nπ ∪ ∅", [1, [2]], {"a": {"b": None}}]
    )
    def test_values_come_back_as_they_went(self, bridge: PythonBridge, value: object) -> None:
        reply = bridge.call("echo", {"value": value}).result(60)
        assert reply == BridgeReply(value=value) if self.runs else reply.fault == "unavailable"

    def test_a_long_text_passes(self, bridge: PythonBridge) -> None:
        text = "x+" * 200_000
        reply = bridge.call("echo", {"value": text}).result(60)
        assert reply.value == text if self.runs else reply.fault == "unavailable"

    def test_many_calls_at_once_get_their_own_answers(self, bridge: PythonBridge) -> None:
        handles = [bridge.call("echo", {"value": n}) for n in range(40)]
        values = [handle.result(60).value for handle in handles]
        assert values == (list(range(40)) if self.runs else [None] * 40)

    def test_async_code_may_wait_for_it(self, bridge: PythonBridge) -> None:
        async def both() -> list[BridgeReply]:
            first, second = bridge.call("echo", {"value": 1}), bridge.call("echo", {"value": 2})
            return [await second, await first]

        values = [reply.value for reply in asyncio.run(both())]
        assert values == ([2, 1] if self.runs else [None, None])

    @pytest.mark.parametrize(
        ("function", "fault"),
        [("hang", "timeout"), ("crash", "crash"), ("greedy", "memory"), ("fail", "error")],
    )
    def test_a_fault_is_an_answer_and_the_next_call_goes_through(
        self, bridge: PythonBridge, function: str, fault: str
    ) -> None:
        arguments = {"message": "no"} if function == "fail" else {}
        seconds = self.guard_s if function == "hang" else 60
        reply = bridge.call(function, arguments, timeout_s=seconds).result(120)
        assert reply.fault == (fault if self.runs else "unavailable")
        assert reply.value is None
        assert reply.message
        after = bridge.call("echo", {"value": "still here"}).result(60)
        assert after.value == ("still here" if self.runs else None)

    def test_a_function_that_is_not_listed_is_refused(self, bridge: PythonBridge) -> None:
        if self.runs:
            with pytest.raises(NotFoundError, match="'echo'"):
                bridge.call("ecko", {})
            with pytest.raises(NotFoundError):
                bridge.call("os:system", {"command": "true"})
        else:
            assert bridge.call("os:system", {"command": "true"}).result(60).fault == "unavailable"

    @pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
    def test_what_is_not_json_is_refused(self, bridge: PythonBridge, value: object) -> None:
        if self.runs:
            with pytest.raises(DataError, match="not JSON"):
                bridge.call("echo", {"value": value})

    def test_a_closed_bridge_refuses_calls_and_may_be_closed_again(self, bridge: PythonBridge) -> None:
        bridge.call("echo", {"value": 1}).result(60)
        asyncio.run(bridge.close())
        asyncio.run(bridge.close())
        with pytest.raises(ConflictError, match="closed"):
            bridge.call("echo", {"value": 1})
