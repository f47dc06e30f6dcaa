"""A tokenizer read from ``tokenizer.json``, for tests: fits ``crucible_train.ports.Tokenizer``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as BackendTokenizer

__all__ = ["FileTokenizer"]

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@lru_cache(maxsize=8)
def _backends(path: Path) -> tuple[Any, Any, str]:
    """A backend that reads special tokens in text, one that does not, and the file's digest.

    Large vocabularies take seconds to load, and nothing changes a backend once it is here.
    """
    source = path.read_bytes()
    marked: Any = BackendTokenizer.from_str(source.decode("utf-8"))
    literal: Any = BackendTokenizer.from_str(source.decode("utf-8"))
    literal.encode_special_tokens = True
    return marked, literal, hashlib.sha256(source).hexdigest()


class FileTokenizer:
    """The vocabulary of a folder with ``tokenizer.json`` and ``tokenizer_config.json``.

    Special tokens are those that the config names, as ``transformers`` counts them; a vocabulary may
    flag more, which stay literal in text just the same. ``overrides`` replaces entries of the config.
    """

    def __init__(self, folder: Path, overrides: dict[str, str | None] | None = None) -> None:
        self.folder = folder
        self.overrides = overrides
        self._config: dict[str, Any] = {
            **json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")),
            **(overrides or {}),
        }
        self._marked, self._literal, self._digest = _backends((folder / "tokenizer.json").resolve())

    def _named(self, key: str) -> int | None:
        value = self._config.get(key)
        token = value.get("content") if isinstance(value, dict) else value
        return None if token is None else self.token_id(token)

    @property
    def bos_token_id(self) -> int | None:
        """Id of the config's ``bos_token``."""
        return self._named("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """Id of the config's ``eos_token``."""
        return self._named("eos_token")

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id."""
        greatest: int = max(self._marked.get_vocab(with_added_tokens=True).values())
        return 1 + greatest

    @property
    def all_special_ids(self) -> Sequence[int]:
        """Ids of the tokens that the config names, sorted."""
        extra = self._config.get("additional_special_tokens") or []
        texts: list[str] = [token["content"] if isinstance(token, dict) else token for token in extra]
        ids = [self._named(key) for key in _NAMED] + [self.token_id(text) for text in texts]
        return sorted({found for found in ids if found is not None})

    @property
    def digest(self) -> str:
        """SHA-256 of ``tokenizer.json``."""
        return self._digest

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of ``text`` alone."""
        backend = self._marked if allow_special else self._literal
        return list(backend.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the ids, special tokens included."""
        return str(self._marked.decode(list(tokens), skip_special_tokens=False))

    def token_id(self, token: str) -> int | None:
        """Id of exactly this entry."""
        found: int | None = self._marked.token_to_id(token)
        return found

    def token_bytes(self, token: int) -> bytes:
        """Bytes of one token; exact for byte-level vocabularies, empty for special tokens."""
        if token in self.all_special_ids:
            return b""
        entry = self._marked.id_to_token(token)
        added = {added.content for added in self._marked.get_added_tokens_decoder().values()}
        if entry in added:
            return str(entry).encode("utf-8")
        return bytes(_BYTE_OF_CHARACTER[character] for character in entry)


def _byte_of_character() -> dict[str, int]:
    """The table by which byte-level vocabularies write bytes as visible characters (GPT-2)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    table = {chr(byte): byte for byte in visible}
    return table | {chr(256 + offset): byte for offset, byte in enumerate(hidden)}


_BYTE_OF_CHARACTER = _byte_of_character()
