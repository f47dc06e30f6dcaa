"""Keys and values of the sequences that are being sampled, in stores of a few widths.

What a sequence computes must not depend on which others run beside it. So each row is as wide as its own
length asks for, and no wider because of another; rows of one width lie side by side and are computed in one call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["KeyValueStore", "Seat", "Width", "width_for"]

_STEP = 64


def width_for(length: int) -> int:
    """Width of a row of ``length`` tokens: a multiple of 64, and of a quarter of the next power of two."""
    step = max(_STEP, (1 << (length - 1).bit_length()) // 4)
    return -(-length // step) * step


class Seat:
    """The place of one sequence: a row of a width."""

    __slots__ = ("row", "width")

    def __init__(self, width: Width, row: int) -> None:
        self.width = width
        self.row = row


class Width:
    """Rows of one width: keys and values per layer, each [rows, heads, tokens, head_dim].

    Seated rows are the first ones, without gaps. What nobody has written is 0 or old, never NaN, so that it may be
    multiplied by 0.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.seats: list[Seat] = []
        self._layers: dict[int, list[torch.Tensor]] = {}

    def seat(self) -> Seat:
        """A place after the others; nothing is written there yet."""
        self.seats.append(Seat(self, len(self.seats)))
        return self.seats[-1]

    def leave(self, seat: Seat) -> None:
        """Give the place up; the last row moves there."""
        last = self.seats.pop()
        if last is not seat:
            for pair in self._layers.values():
                for stored in pair:
                    stored[seat.row] = stored[last.row]
            last.row = seat.row
            self.seats[last.row] = last

    def write(self, layer: int, rows: list[int], pair: Sequence[torch.Tensor]) -> None:
        """Let rows begin with the same key and value, each [heads, tokens, head_dim]."""
        for stored, new in zip(self._room(layer, pair), pair, strict=True):
            stored[rows, :, : new.shape[1]] = new

    def append(
        self, layer: int, at: tuple[torch.Tensor, torch.Tensor], pair: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write key and value [rows, heads, head_dim] at rows and places (rows,); all that the rows have, in views."""
        keys, values = self._layers[layer]
        rows, places = at
        keys[rows, :, places], values[rows, :, places] = pair
        count = len(self.seats)
        return keys[:count], values[:count]

    def copy(self, seat: Seat, source: Seat, length: int) -> None:
        """Let a row begin with the first ``length`` tokens of another, of any width."""
        for layer, pair in source.width._layers.items():
            self.write(layer, [seat.row], [stored[source.row, :, :length].clone() for stored in pair])

    def _room(self, layer: int, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors of a layer, with a row for every seat; they grow by doubling."""
        pair = self._layers.get(layer)
        if pair is None:
            shape = len(self.seats), self.tokens
            pair = [t.new_zeros(shape[0], t.shape[0], shape[1], t.shape[2]) for t in like]
        elif pair[0].shape[0] < len(self.seats):
            room = max(len(self.seats), 2 * pair[0].shape[0])
            grown = [t.new_zeros(room, *t.shape[1:]) for t in pair]
            for new, old in zip(grown, pair, strict=True):
                new[: old.shape[0]] = old
            pair = grown
        self._layers[layer] = pair
        return pair


class KeyValueStore:
    """Seats by width; a width is freed when its last seat is given up."""

    def __init__(self) -> None:
        self._widths: dict[int, Width] = {}

    @property
    def widths(self) -> list[Width]:
        """Narrowest first."""
        return [self._widths[tokens] for tokens in sorted(self._widths)]

    def seat(self, length: int) -> Seat:
        """A place for a sequence of ``length`` tokens."""
        tokens = width_for(length)
        if tokens not in self._widths:
            self._widths[tokens] = Width(tokens)
        return self._widths[tokens].seat()

    def leave(self, seat: Seat) -> None:
        """Give a place up."""
        seat.width.leave(seat)
        if not seat.width.seats:
            del self._widths[seat.width.tokens]

    def widened(self, seat: Seat, length: int) -> Seat:
        """The same place if it has room for ``length`` tokens, else a wider one with the same content."""
        if length <= seat.width.tokens:
            return seat
        wider = self.seat(length)
        wider.width.copy(wider, seat, seat.width.tokens)
        self.leave(seat)
        return wider
