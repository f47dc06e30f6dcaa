"""The port of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

__all__ = ["Tokenizer"]


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back. Special tokens in text stay literal unless ``allow_special`` is given."""

    @property
    def bos_token_id(self) -> int | None:
        """Id of the beginning-of-text token, if the vocabulary has one that prompts start with."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a generation."""
        ...

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id."""
        ...

    @property
    def all_special_ids(self) -> Sequence[int]:
        """Ids that stand for no text."""
        ...

    @property
    def digest(self) -> str:
        """Digest of everything that decides which ids a text becomes (content, not name)."""
        ...

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of ``text``, without added BOS or EOS."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the ids, special tokens included."""
        ...

    def token_id(self, token: str) -> int | None:
        """Id of exactly this vocabulary entry, or None."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """UTF-8 bytes that one token adds to a text; empty for special tokens."""
        ...
