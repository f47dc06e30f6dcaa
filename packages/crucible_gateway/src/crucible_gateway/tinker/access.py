"""Who may ask: the key, the names by which the server may be addressed, and links that need no key for a while."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from crucible_ir import ConfigError

__all__ = ["KeyCheck", "LinkSigner", "key_from", "require_usable_key"]

_PREFIXES = ("tml-", "eyJ")


def require_usable_key(key: str, variable: str) -> str:
    """The key itself, if the SDK would send it.

    Raises:
        ConfigError: it would not.
    """
    if not key.startswith(_PREFIXES) or len(key) < 12:
        raise ConfigError(
            what=f"${variable} holds no key that the Tinker SDK sends",
            where="--api-key-env",
            remedy="it begins with 'tml-' and has 12 characters at least",
        )
    return key


def key_from(headers: Mapping[str, str]) -> str:
    """The key of a request: ``X-API-Key``, or a bearer token (which Prometheus sends)."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key", "") or (token if scheme.lower() == "bearer" else "")


class KeyCheck:
    """Compares keys in a time that tells nothing about the right one."""

    def __init__(self, key: str | None) -> None:
        self._digest = None if key is None else hashlib.sha256(key.encode()).digest()

    def admits(self, key: str) -> bool:
        """Whether a request with that key may pass; every one may where no key is asked for."""
        if self._digest is None:
            return True
        return hmac.compare_digest(self._digest, hashlib.sha256(key.encode()).digest())


class LinkSigner:
    """Signs what a link names, so that the link can be followed without a key until it expires."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def sign(self, *parts: str) -> str:
        """The signature of these parts."""
        return hmac.new(self._secret, "\n".join(parts).encode(), hashlib.sha256).hexdigest()

    def valid(self, signature: str, *parts: str) -> bool:
        """Whether ``signature`` is that of these parts."""
        return hmac.compare_digest(self.sign(*parts).encode(), signature.encode())
