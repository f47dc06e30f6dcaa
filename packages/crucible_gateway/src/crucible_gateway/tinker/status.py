"""Asking a server how it is."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from crucible_ir import ConfigError, ServiceError

__all__ = ["fetch_status"]

_TIMEOUT_S = 10


def fetch_status(url: str, key: str | None) -> dict[str, Any]:
    """What the server at ``url`` says of itself.

    Raises:
        ConfigError: no such address, or the key is wrong.
        ServiceError: it cannot be reached, or answers something else.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(what=f"{url!r} is no address", where="--url", remedy="give http://HOST:PORT")
    request = urllib.request.Request(f"{url.rstrip('/')}/crucible/status", headers={"X-API-Key": key or ""})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            found: dict[str, Any] = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 401:
            raise ConfigError(
                what="the server asks for a key, or for another one",
                where="--api-key-env",
                remedy="name the variable that holds its key",
            ) from error
        raise ServiceError(
            what=f"status {error.code}", where=url, remedy="is this a crucible server?"
        ) from error
    except (OSError, ValueError) as error:
        raise ServiceError(
            what=f"no answer ({error})",
            where=url,
            remedy="start one with crucible serve tinker",
            retryable=True,
        ) from error
    return found
