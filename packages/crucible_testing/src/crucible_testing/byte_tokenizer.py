"""A tokenizer of one id per byte, for tests: fits ``crucible_train.ports.Tokenizer`` and needs no file."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_ir import digest_of

__all__ = ["END", "ByteTokenizer"]

END = 256
"""The one special id; it ends a generation."""

_END_TEXT = "<|end|>"


class ByteTokenizer:
    """UTF-8 bytes are their own ids; ``<|end|>`` is id 256."""

    @property
    def bos_token_id(self) -> int | None:
        """None: prompts start with their first byte."""
        return None

    @property
    def eos_token_id(self) -> int | None:
        """256."""
        return END

    @property
    def vocab_size(self) -> int:
        """257."""
        return END + 1

    @property
    def all_special_ids(self) -> Sequence[int]:
        """The end alone."""
        return (END,)

    @property
    def digest(self) -> str:
        """The same for every instance."""
        return digest_of(["bytes", _END_TEXT])

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The bytes of ``text``; ``<|end|>`` within it is special only if that is allowed."""
        if not allow_special:
            return list(text.encode("utf-8"))
        first, *rest = (list(piece.encode("utf-8")) for piece in text.split(_END_TEXT))
        return first + [token for piece in rest for token in (END, *piece)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the bytes, broken characters replaced."""
        ends = _END_TEXT.encode()
        data = b"".join(ends if token == END else bytes([token]) for token in tokens)
        return data.decode("utf-8", "replace")

    def token_id(self, token: str) -> int | None:
        """The id of ``<|end|>`` or of one ASCII character."""
        if token == _END_TEXT:
            return END
        return ord(token) if len(token) == 1 and ord(token) < 128 else None

    def token_bytes(self, token: int) -> bytes:
        """The byte itself; nothing for the end."""
        return b"" if token == END else bytes([token])
