"""Taking secrets out of text and JSON: planted values, well-known shapes, and fields named like secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

__all__ = ["REDACTED", "Redactor", "is_secret_name", "redact", "secrets_in"]

REDACTED = "[redacted]"
"""What stands in a secret's place."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_ALWAYS = frozenset(
    {"apikey", "auth", "authorization", "cookie", "credential", "credentials", "passphrase", "passwd"}
    | {"password", "pwd", "secret", "secrets", "token"}
)
_KEYS = frozenset(
    {"access", "account", "api", "auth", "encryption", "private", "secret", "service", "signing"}
)
_TEXT_TOKENS = frozenset(
    {"bos", "cls", "eos", "image", "mask", "next", "pad", "sep", "special", "start", "end", "stop", "unk"}
)

_SHAPES = re.compile(
    r"""
    -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    | (?<![A-Za-z0-9]) (?:
        hf_[A-Za-z0-9]{16,}
      | sk-(?=[A-Za-z_-]{0,60}\d)[A-Za-z0-9_-]{16,}
      | tml-[A-Za-z0-9_-]{8,}
      | gh[opsur]_[A-Za-z0-9]{20,}
      | github_pat_[A-Za-z0-9_]{20,}
      | glpat-[A-Za-z0-9_-]{16,}
      | xox[abeprs]-[A-Za-z0-9-]{10,}
      | AIza[A-Za-z0-9_-]{30,}
      | (?:AKIA|ASIA|AROA|AIDA|AGPA)[A-Z0-9]{16}(?![A-Za-z0-9])
    )
    | (?<![A-Za-z0-9_-]) eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*
    """,
    re.VERBOSE | re.DOTALL,
)
_USERINFO = re.compile(r"(?<=://)[^\s/?#@\"'<>]+(?=@)")
_SCHEMES = re.compile(r"\b(Bearer\s+)(?=[^\s\"']*\d|[^\s\"']{20})[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_HEADER = re.compile(
    r"((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|token|digest|negotiate)\s+)?+)"
    r"(?!\[redacted\])[^\s\"',;]+",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"((?<![A-Za-z])(?:api[_-]?key|apikey|access[_-]?key(?:[_-]?id)?|secret[_-]?key|private[_-]?key|token|passw(?:or)?d|pwd"
    r"|passphrase|(?:client[_-])?secret)"
    r"(?:[\"']\s*:\s*[\"']|\s*=\s*[\"']?))"
    r"(?!\[redacted\]|\d+(?:\.\d+)?(?![A-Za-z0-9])|(?:None|null|true|false)\b)[^\s\"'&,;)}\]]+",
    re.IGNORECASE,
)
_PASSWORD = re.compile(
    r"(\b(?:password|passwd|passphrase|api[_-]?key)\s*:\s*)(?!\[redacted\])[^\s\"',;]+", re.IGNORECASE
)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_HINT = re.compile(
    r"://|hf_|sk-|tml-|gh[opsur]_|github_|glpat-|xox|AIza|AKIA|ASIA|AROA|AIDA|AGPA|eyJ|PRIVATE KEY"
    r"|bearer|authorization|key|token|passw|pwd|passphrase|secret",
    re.IGNORECASE,
)


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret: api_key, HF_TOKEN, password, client-secret, authorization …

    ``max_tokens``, ``tokenizer``, ``eos_token``, ``idempotency_key`` and a bare ``key`` do not.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    for before, word in zip(["", *words], words, strict=False):
        if word in _ALWAYS and not (word == "token" and before in _TEXT_TOKENS):
            return True
        if word in ("key", "keys") and before in _KEYS:
            return True
    return False


def secrets_in(environment: Mapping[str, str]) -> frozenset[str]:
    """The values of the variables that are named like secrets and are long enough to be one (6 characters)."""
    return frozenset(value for name, value in environment.items() if len(value) >= 6 and is_secret_name(name))


def _spellings(secret: str) -> set[str]:
    """The secret as it stands in text, in JSON, and in a URL."""
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
        quote_plus(secret),
    }


def _planted(secrets: Collection[str]) -> re.Pattern[str] | None:
    known = {spelling for secret in secrets if secret for spelling in _spellings(secret)}
    if not known:
        return None
    return re.compile(
        "|".join(re.escape(text) for text in sorted(known, key=lambda text: (-len(text), text)))
    )


def _is_reference(item: Any) -> bool:
    """Whether ``item`` is ``{"env": "NAME"}``: the name of a variable, and not what it holds."""
    if not isinstance(item, Mapping) or set(item) != {"env"}:
        return False
    name = item["env"]
    return isinstance(name, str) and _VARIABLE.fullmatch(name) is not None


def _hidden(name: str, item: Any) -> Any:
    """What stays of a field named like a secret: absence, yes or no, and token ids."""
    if item is None or item == "" or isinstance(item, bool):
        return item
    numbers = item if isinstance(item, list | tuple) else [item]
    if "token" in name.lower() and all(isinstance(number, int | float) for number in numbers):
        return item
    return REDACTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Redactor:
    """Redacts with one set of known secrets; make it once and call it for each value."""

    secrets: frozenset[str] = frozenset()
    """Exact values to take out wherever they stand, also inside longer text and as keys."""
    _pattern: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile the secrets once."""
        object.__setattr__(self, "_pattern", _planted(self.secrets))

    def __repr__(self) -> str:
        """How many secrets are known, never which."""
        return f"Redactor({len(self.secrets)} secrets)"

    def text(self, text: str) -> str:
        """``text`` without secrets."""
        if self._pattern is not None:
            text = self._pattern.sub(REDACTED, text)
        if _HINT.search(text) is None:
            return text
        text = _SHAPES.sub(REDACTED, text)
        text = _USERINFO.sub(REDACTED, text)
        kept: Callable[[re.Match[str]], str] = lambda match: match.group(1) + REDACTED  # noqa: E731
        for rule in (_SCHEMES, _HEADER, _NAMED, _PASSWORD):
            text = rule.sub(kept, text)
        return text

    def __call__(self, value: Any) -> Any:
        """``value`` without secrets; the same kind of value, never changed in place."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, list | tuple | set | frozenset):
            items = [self(item) for item in value]
            if isinstance(value, tuple):
                return tuple(items)
            return items if isinstance(value, list) else type(value)(items)
        if isinstance(value, bytes):
            return self.text(value.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        return value

    def _mapping(self, value: Mapping[Any, Any]) -> dict[Any, Any]:
        out: dict[Any, Any] = {}
        for key, item in value.items():
            name = self(key) if isinstance(key, str) else key
            count = 1
            while name in out:
                count += 1
                name = f"{self(key)} {count}"
            secret = isinstance(key, str) and is_secret_name(key) and not _is_reference(item)
            out[name] = _hidden(key, item) if secret else self(item)
        return out


def redact(value: Any, secrets: Collection[str] = ()) -> Any:
    """``value`` with every secret replaced by ``[redacted]``: text, or JSON nested to any depth, keys too.

    Replaced are the given ``secrets`` (as they are, JSON-escaped or percent-encoded), well-known shapes
    (``hf_…``, ``sk-…``, ``tml-…``, GitHub, Slack, Google and AWS keys, JWTs, private keys, ``Bearer …``),
    ``user:password@`` in URLs, ``token=…`` in text, and the values of fields named like secrets,
    unless they only name a variable (``{"env": "NAME"}``).
    """
    return Redactor(secrets=frozenset(secrets))(value)
