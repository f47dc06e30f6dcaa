"""Trying again is bounded, spread out, as late as the service asks, and only for what may be tried again."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import ConfigError, ServiceError
from crucible_kitchen.adapters.tinker_retries import Retries


class Waits:
    """Notes how long it was asked to wait, and does not."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def later(retry_after_s: float | None = None) -> ServiceError:
    return ServiceError(what="busy", retryable=True, retry_after_s=retry_after_s)


def run(*outcomes: Exception | str, attempts: int = 4, chance: float = 1.0) -> tuple[str, list[float], int]:
    """The result, the waits, and how many tries were made."""
    waits, left = Waits(), list(outcomes)

    async def attempt() -> str:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    retries = Retries(attempts=attempts, first_s=1.0, longest_s=5.0, wait=waits, chance=lambda: chance)
    result = asyncio.run(retries.run(attempt))
    return result, waits.seconds, len(outcomes) - len(left)


def test_a_call_that_goes_through_is_made_once() -> None:
    assert run("done") == ("done", [], 1)


def test_waits_double_up_to_the_longest() -> None:
    failures = [later() for _ in range(5)]
    assert run(*failures, "done", attempts=6) == ("done", [1.0, 2.0, 4.0, 5.0, 5.0], 6)


def test_a_wait_is_never_shorter_than_the_service_asks() -> None:
    assert run(later(3.0), later(0.1), "done")[1] == [3.0, 2.0]


@given(number=st.integers(0, 40), chance=st.floats(0, 1, exclude_max=True))
def test_a_wait_lies_between_half_of_the_backoff_and_all_of_it(number: int, chance: float) -> None:
    backed_off = min(5.0, 2.0**number)
    delay = Retries(first_s=1.0, longest_s=5.0, chance=lambda: chance).delay(number, None)
    assert backed_off / 2 <= delay <= backed_off


def test_the_last_failure_is_raised() -> None:
    with pytest.raises(ServiceError, match="busy"):
        run(later(), later(), attempts=2)


@pytest.mark.parametrize(
    "error", [ServiceError(what="broken"), ConfigError(what="wrong"), later(3601.0), RuntimeError("bug")]
)
def test_what_trying_again_does_not_mend_is_raised_at_once(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        run(error, "never asked")
    assert caught.value is error


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"first_s": -1.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Retries(**wrong)  # type: ignore[arg-type]
