"""The tokenizer port over fast tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from crucible_ir.canonical import digest_of
from crucible_ir.errors import NotFoundError
from crucible_torch.template_process import shared_process
from crucible_torch.tokenizer_files import TokenizerParts, read_tokenizer
from crucible_train.ports import TemplateCall, TemplateText

__all__ = ["FastTokenizer", "load_tokenizer"]


class FastTokenizer:
    """A tokenizer whose special tokens in text stay literal unless ``allow_special`` is given.

    ``literal`` and ``special`` are two copies of one ``tokenizers.Tokenizer``; the first reads the names of
    special tokens in a text as ordinary characters. Its chat template, if it has one, is run by
    ``transformers`` in a process of its own.
    """

    def __init__(self, parts: TokenizerParts) -> None:
        from tokenizers import Tokenizer as Backend

        text = parts.definition
        self._content: dict[str, Any] = {
            key: part for key, part in json.loads(text).items() if key not in ("padding", "truncation")
        }
        self._literal, self._special = Backend.from_str(text), Backend.from_str(text)
        for backend in (self._literal, self._special):
            backend.no_padding()
            backend.no_truncation()
        self._literal.encode_special_tokens = True
        self._special.encode_special_tokens = False
        self._bos, self._eos = parts.bos, parts.eos
        self._templates = _templates(parts.template)
        self._variables = dict(parts.named)

    @property
    def bos_token_id(self) -> int | None:
        """Id of the beginning-of-text token, or None."""
        return self._bos

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a generation, or None."""
        return self._eos

    @cached_property
    def vocab_size(self) -> int:
        """One more than the greatest id."""
        return 1 + max(self._special.get_vocab(with_added_tokens=True).values())

    @cached_property
    def all_special_ids(self) -> tuple[int, ...]:
        """Ids of the added tokens that are marked as special."""
        added = self._special.get_added_tokens_decoder()
        return tuple(sorted(index for index, token in added.items() if token.special))

    @cached_property
    def digest(self) -> str:
        """Digest of the tokenizer's whole definition, padding and truncation aside."""
        return digest_of(self._content)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of ``text``, without added BOS or EOS."""
        backend = self._special if allow_special else self._literal
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the ids, special tokens included."""
        if self._decodes_bytes:
            return b"".join(map(self._pieces.__getitem__, tokens)).decode("utf-8", "replace")
        text: str = self._special.decode(list(tokens), skip_special_tokens=False)
        return text

    def token_id(self, token: str) -> int | None:
        """Id of exactly this vocabulary entry, or None."""
        index: int | None = self._special.token_to_id(token)
        return index

    def token_bytes(self, token: int) -> bytes:
        """UTF-8 bytes that one token adds to a text; empty for special tokens.

        Byte-level vocabularies are mapped back character by character; in SentencePiece ones ``▁`` is a
        space and ``<0xNN>`` a byte.
        """
        added = self._special.get_added_tokens_decoder().get(token)
        if added is not None:
            return b"" if added.special else added.content.encode()
        entry: str = self._special.id_to_token(token) or ""
        if self._byte_level:
            return bytes(_BYTES[char] for char in entry)
        if len(entry) == 6 and entry.startswith("<0x") and entry.endswith(">"):
            return bytes([int(entry[3:5], 16)])
        return entry.replace("▁", " ").encode()

    @property
    def chat_template(self) -> str | None:
        """The template's source; those for conversations with and without tools joined where they differ."""
        return "\n".join(dict.fromkeys(self._templates.values())) or None

    def render_chats(
        self, calls: Sequence[TemplateCall], *, current_date: str | None = None
    ) -> list[TemplateText]:
        """What the template writes for each call, or why it writes nothing.

        Raises:
            NotFoundError: there is no template.
        """
        if not self._templates:
            raise NotFoundError(
                what="the tokenizer has no chat template",
                where="chat_template",
                remedy="put one into tokenizer_config.json, or use a renderer by name",
            )
        return shared_process().render(
            self._templates, calls, variables=self._variables, current_date=current_date
        )

    @cached_property
    def _decodes_bytes(self) -> bool:
        """Whether a text is its tokens' bytes side by side, which is several times faster to do here."""
        return (self._content.get("decoder") or {}).get("type") == "ByteLevel"

    @cached_property
    def _pieces(self) -> _Pieces:
        return _Pieces(self._special.id_to_token)

    @cached_property
    def _byte_level(self) -> bool:
        return _has_byte_level(self._content.get("decoder")) or _has_byte_level(
            self._content.get("pre_tokenizer")
        )


class _Pieces(dict[int, bytes]):
    """Bytes of each vocabulary entry as ``tokenizers``' ByteLevel decoder reads it, found when first asked for.

    An entry with a character that stands for no byte is taken as text; an id of nothing is nothing.
    """

    def __init__(self, entry: Callable[[int], str | None]) -> None:
        super().__init__()
        self._entry = entry

    def __missing__(self, token: int) -> bytes:
        text = self._entry(token) or ""
        plain = all(char in _BYTES for char in text)
        self[token] = bytes(_BYTES[char] for char in text) if plain else text.encode()
        return self[token]


def load_tokenizer(location: str, *, local_files_only: bool = False) -> FastTokenizer:
    """The fast tokenizer of a model folder or hub id.

    Raises:
        NotFoundError: there is none.
    """
    return FastTokenizer(read_tokenizer(location, local_files_only=local_files_only))


def _templates(found: str | Mapping[str, str] | None) -> dict[str, str]:
    """The templates for conversations without tools (``plain``) and with (``tools``); empty if there is none."""
    if isinstance(found, Mapping):
        plain = found.get("default", next(iter(found.values()), None))
        return {} if plain is None else {"plain": plain, "tools": found.get("tool_use", plain)}
    return {} if not found else {"plain": found, "tools": found}


def _has_byte_level(part: Any) -> bool:
    if isinstance(part, dict):
        return part.get("type") == "ByteLevel" or any(_has_byte_level(value) for value in part.values())
    return isinstance(part, list) and any(_has_byte_level(item) for item in part)


def _byte_characters() -> dict[str, int]:
    """The character that GPT-2's byte-level vocabulary writes for each byte, inverted."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    mapped = {chr(byte): byte for byte in plain}
    rest = (byte for byte in range(256) if byte not in set(plain))
    return mapped | {chr(256 + n): byte for n, byte in enumerate(rest)}


_BYTES = _byte_characters()
