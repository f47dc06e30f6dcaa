"""Errors of the Tinker SDK as this project's: who can put it right, and whether the same call may go through later."""

from __future__ import annotations

import json
import re
from typing import Any

from crucible_ir.errors import (
    ConfigError,
    ConflictError,
    CrucibleError,
    NotFoundError,
    ServiceError,
)

__all__ = ["explained"]

_SECRET = re.compile(r"tml-[A-Za-z0-9_-]{4,}|eyJ[A-Za-z0-9_.-]{12,}")
_LONGEST = 600


def explained(error: BaseException, *, where: str, idempotent: bool) -> CrucibleError:
    """The error that tells what ``error`` of the SDK means; one of ours stays as it is.

    ``idempotent`` says that doing the call twice does no harm: only then may the error be called retryable.
    """
    import tinker

    match error:
        case CrucibleError():
            return error
        case tinker.APIStatusError():
            return _of_status(error, where, idempotent=idempotent)
        case tinker.APIConnectionError():
            return _later(f"the service cannot be reached ({_said(error)})", where, idempotent)
        case tinker.RequestFailedError():
            return _of_request(error, where, idempotent=idempotent)
        case tinker.APIResponseValidationError() | json.JSONDecodeError():
            return _later(f"the service's answer cannot be read ({_said(error)})", where, idempotent)
        case TimeoutError():
            return _later("the service did not answer in time", where, idempotent)
    if type(error).__name__ == "RetryableException":
        return _later(f"the service lost the request ({_said(error)})", where, idempotent)
    if error.__cause__ is not None and isinstance(error.__cause__, tinker.TinkerError):
        return explained(error.__cause__, where=where, idempotent=idempotent)
    return ServiceError(
        what=f"the SDK failed ({type(error).__name__}: {_said(error)})",
        where=where,
        remedy=_remedy(idempotent),
    )


def _of_status(error: Any, where: str, *, idempotent: bool) -> CrucibleError:
    """By the status of the answer, as HTTP means it."""
    status, said = int(error.status_code), _said(error)
    if status in (401, 403):
        return ConfigError(
            what=f"the service refused the key ({said})",
            where=where,
            remedy="put a valid key into the variable that the manifest names",
        )
    if status == 402:
        return ServiceError(
            what=f"the service asks for payment ({said})", where=where, remedy="settle the account's billing"
        )
    if status == 404:
        return NotFoundError(what=said, where=where, remedy="check the name")
    if status == 409:
        return ConflictError(what=said, where=where, remedy="take another name")
    if status == 408 or status == 429 or status >= 500:
        return _later(
            f"the service answered with status {status} ({said})", where, idempotent, _retry_after(error)
        )
    return ConfigError(what=f"the service refused the request ({said})", where=where, remedy="correct it")


def _of_request(error: Any, where: str, *, idempotent: bool) -> CrucibleError:
    """Of work that was accepted and then failed: the user's own fault, or the service's."""
    said = _said(error)
    if str(getattr(error.category, "value", error.category)).lower() == "user":
        if "there is no checkpoint" in said or "not found" in said.lower():
            return NotFoundError(what=said, where=where, remedy="check the name")
        return ConfigError(what=f"the service refused the request ({said})", where=where, remedy="correct it")
    return _later(f"the service failed ({said})", where, idempotent)


def _later(what: str, where: str, idempotent: bool, retry_after_s: float | None = None) -> ServiceError:
    return ServiceError(
        what=what,
        where=where,
        remedy=_remedy(idempotent),
        retryable=idempotent,
        retry_after_s=retry_after_s,
    )


def _remedy(idempotent: bool) -> str:
    return "try again later" if idempotent else "go on from the last checkpoint"


def _retry_after(error: Any) -> float | None:
    """Seconds that the service asks to wait, where it gives a number."""
    text = str(error.response.headers.get("retry-after", "")).strip()
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def _said(error: BaseException) -> str:
    """The message on one line, without anything that looks like a key."""
    text = " ".join(str(error).split()) or "no message"
    return _SECRET.sub("***", text)[:_LONGEST].rstrip(".")
