"""What a model reads: a sequence of text and image chunks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Self

from crucible_ir.errors import DataError

__all__ = ["Chunk", "EncodedTextChunk", "ImageChunk", "ModelInput"]


@dataclass(frozen=True, slots=True)
class EncodedTextChunk:
    """Token ids of a stretch of text."""

    tokens: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of positions the chunk takes."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageChunk:
    """An encoded image and the number of positions the model gives to it."""

    data: bytes = field(repr=False)
    format: Literal["png", "jpeg"]
    expected_tokens: int

    def __post_init__(self) -> None:
        if self.expected_tokens < 1:
            raise DataError(
                what=f"image with expected_tokens={self.expected_tokens}",
                where="ImageChunk.expected_tokens",
                remedy="give the number of positions (≥ 1) the model's image processor makes of it",
            )

    @property
    def length(self) -> int:
        """Number of positions the chunk takes."""
        return self.expected_tokens


Chunk = EncodedTextChunk | ImageChunk


@dataclass(frozen=True, slots=True)
class ModelInput:
    """Chunks in reading order; immutable, so that it can be shared and used as a key."""

    chunks: tuple[Chunk, ...] = ()
    length: int = field(init=False, repr=False, compare=False)
    """Number of positions of all chunks."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", sum([chunk.length for chunk in self.chunks]))

    @classmethod
    def empty(cls) -> Self:
        """An input of no chunks."""
        return cls(())

    @classmethod
    def from_ints(cls, tokens: Iterable[int]) -> Self:
        """One text chunk of these token ids."""
        return cls((EncodedTextChunk(tuple(int(t) for t in tokens)),))

    def to_ints(self) -> list[int]:
        """Token ids of a text-only input.

        Raises:
            DataError: there is an image among the chunks.
        """
        tokens: list[int] = []
        for chunk in self.chunks:
            if isinstance(chunk, ImageChunk):
                raise DataError(
                    what="an image chunk has no token ids",
                    where="ModelInput.to_ints",
                    remedy="iterate over .chunks, or use all_tokens(image_id=0)",
                )
            tokens.extend(chunk.tokens)
        return tokens

    def all_tokens(self, image_id: int = 0) -> list[int]:
        """Token ids with ``image_id`` at every position of an image."""
        tokens: list[int] = []
        for chunk in self.chunks:
            tokens.extend(chunk.tokens if isinstance(chunk, EncodedTextChunk) else [image_id] * chunk.length)
        return tokens

    def append(self, chunk: Chunk) -> ModelInput:
        """A new input with ``chunk`` at the end."""
        return ModelInput((*self.chunks, chunk))

    def append_int(self, token: int) -> ModelInput:
        """A new input with ``token`` at the end, joined to the last chunk if that is text."""
        if self.chunks and isinstance(self.chunks[-1], EncodedTextChunk):
            last = EncodedTextChunk((*self.chunks[-1].tokens, token))
            return ModelInput((*self.chunks[:-1], last))
        return self.append(EncodedTextChunk((token,)))
