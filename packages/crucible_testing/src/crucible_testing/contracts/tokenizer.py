"""What every Tokenizer promises."""

from __future__ import annotations

import pytest

from crucible_train.ports import Tokenizer

__all__ = ["TokenizerContract"]

TEXTS = ("Hello, world!", "a  b\n\tc", "naïve café ünïcödé", "數學 🙂", "1234567 + 89", "")


class TokenizerContract:
    """Inherit it and give ``tokenizer``; ``byte_level`` says that every text comes back byte by byte."""

    byte_level: bool = True

    @pytest.fixture
    def tokenizer(self) -> Tokenizer:
        """The tokenizer under test; its vocabulary has at least one special token."""
        raise NotImplementedError

    def test_it_fits_the_port(self, tokenizer: Tokenizer) -> None:
        assert isinstance(tokenizer, Tokenizer)

    @pytest.mark.parametrize("text", TEXTS)
    def test_text_comes_back(self, tokenizer: Tokenizer, text: str) -> None:
        ids = tokenizer.encode(text)
        assert all(0 <= index < tokenizer.vocab_size for index in ids)
        if self.byte_level:
            assert tokenizer.decode(ids) == text
            assert b"".join(tokenizer.token_bytes(index) for index in ids).decode() == text

    def test_the_name_of_a_special_token_in_text_is_ordinary_text(self, tokenizer: Tokenizer) -> None:
        special = tokenizer.all_special_ids[0]
        name = tokenizer.decode([special])
        text = f"say {name} twice"
        literal = tokenizer.encode(text)
        assert special not in literal
        assert special in tokenizer.encode(text, allow_special=True)
        if self.byte_level:
            assert tokenizer.decode(literal) == text

    def test_special_tokens_stand_for_no_text(self, tokenizer: Tokenizer) -> None:
        assert all(tokenizer.token_bytes(index) == b"" for index in tokenizer.all_special_ids)

    def test_nothing_is_added_before_or_after(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.encode("") == []

    def test_a_vocabulary_entry_has_its_id(self, tokenizer: Tokenizer) -> None:
        special = tokenizer.all_special_ids[0]
        assert tokenizer.token_id(tokenizer.decode([special])) == special
        assert tokenizer.token_id("no such vocabulary entry") is None

    def test_the_digest_stays(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.digest == tokenizer.digest
        assert tokenizer.digest
