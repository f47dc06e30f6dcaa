"""What the SDK raises is told as ours: whose fault it is, whether to try again, and never a key."""

from __future__ import annotations

import httpx
import pytest
import tinker

from crucible_ir import ConfigError, ConflictError, CrucibleError, NotFoundError, ServiceError
from crucible_kitchen.adapters.tinker_errors import explained

REQUEST = httpx.Request("POST", "http://127.0.0.1/api/v1/asample")


def status(code: int, message: str = "told", **headers: str) -> tinker.APIStatusError:
    response = httpx.Response(code, headers=headers, request=REQUEST)
    return tinker.APIStatusError(message, response=response, body=None)


def told(error: BaseException, *, idempotent: bool = True) -> CrucibleError:
    return explained(error, where="sample", idempotent=idempotent)


@pytest.mark.parametrize(
    ("code", "kind", "again"),
    [
        (400, ConfigError, False),
        (401, ConfigError, False),
        (402, ServiceError, False),
        (403, ConfigError, False),
        (404, NotFoundError, False),
        (408, ServiceError, True),
        (409, ConflictError, False),
        (422, ConfigError, False),
        (429, ServiceError, True),
        (500, ServiceError, True),
        (503, ServiceError, True),
    ],
)
def test_the_status_of_an_answer_decides_whose_fault_it_is(
    code: int, kind: type[CrucibleError], again: bool
) -> None:
    error = told(status(code))
    assert type(error) is kind
    assert error.retryable is again
    assert told(status(code), idempotent=False).retryable is False
    assert error.remedy


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("soon", None), ("", None)])
def test_how_long_the_service_asks_to_wait_is_kept(header: str, seconds: float | None) -> None:
    error = told(status(429, **{"retry-after": header}))
    assert isinstance(error, ServiceError)
    assert error.retry_after_s == seconds


@pytest.mark.parametrize(
    ("category", "message", "kind", "again"),
    [
        ("user", "loss_fn: no loss 'x'", ConfigError, False),
        ("user", "path: there is no checkpoint tinker://a/weights/b", NotFoundError, False),
        ("server", "out of memory", ServiceError, True),
        ("unknown", "lost", ServiceError, True),
    ],
)
def test_work_that_failed_is_the_users_own_or_the_services(
    category: str, message: str, kind: type[CrucibleError], again: bool
) -> None:
    failed = tinker.RequestFailedError(message, request_id="r", category=category)  # type: ignore[arg-type]
    error = told(failed)
    assert type(error) is kind
    assert error.retryable is again
    assert message in str(error)


def test_a_lost_connection_may_be_tried_again_only_where_that_does_no_harm() -> None:
    lost = tinker.APIConnectionError(request=REQUEST)
    assert told(lost).retryable
    once = told(lost, idempotent=False)
    assert not once.retryable
    assert "checkpoint" in once.remedy


def test_the_cause_of_what_the_sdk_wraps_is_told() -> None:
    wrapped = ValueError("Error retrieving result")
    wrapped.__cause__ = status(401)
    assert isinstance(told(wrapped), ConfigError)


def test_an_error_of_ours_stays_as_it_is() -> None:
    mine = ConfigError(what="x", where="y", remedy="z")
    assert told(mine) is mine


@pytest.mark.parametrize("key", ["tml-abcdEFGH1234", "eyJhbGciOiJIUzI1NiJ9.e30.abc"])
def test_a_key_that_the_service_repeats_is_cut_out(key: str) -> None:
    assert key not in str(told(status(401, f"the key {key} is unknown")))
    assert key not in str(told(RuntimeError(f"refused {key}")))
