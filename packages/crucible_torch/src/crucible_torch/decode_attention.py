"""Attention of sequences that grow: one new token per row over what came before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from crucible_torch.key_values import Width

__all__ = ["DecodePlan"]


class DecodePlan:
    """One new token per row, over all that its seat holds before it.

    Rows are those of ``widths``, one width after another, at ``positions`` (rows,). Rows beyond them are padding
    and see nothing.
    """

    __slots__ = ("_masks", "_parts")

    def __init__(self, widths: Sequence[Width], positions: torch.Tensor) -> None:
        parts = positions.split_with_sizes([len(width.seats) for width in widths])
        rows = (torch.arange(len(width.seats), device=positions.device) for width in widths)
        self._parts = tuple(zip(widths, parts, rows, strict=True))
        self._masks: dict[tuple[int, int | None, torch.dtype], torch.Tensor] = {}

    def attend(
        self,
        layer: int,
        streams: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        how: tuple[float, int | None],
    ) -> torch.Tensor:
        """Query, key and value [rows, heads, head_dim] into [rows, heads × head_dim]; padding into 0."""
        scaling, window = how
        query = streams[0]
        pieces = []
        start = 0
        for index, (width, places, rows) in enumerate(self._parts):
            count = len(width.seats)
            q, k, v = (t[start : start + count] for t in streams)
            keys, values = width.append(layer, (rows, places), (k, v))
            # query heads that share a key head stand as query positions of it: nothing is repeated
            out = scaled_dot_product_attention(
                q.reshape(count, keys.shape[1], -1, q.shape[2]),
                keys,
                values,
                attn_mask=self._mask(index, window, q.dtype),
                scale=scaling,
            )
            pieces.append(out.reshape(count, -1))
            start += count
        if start < query.shape[0]:
            pieces.append(pieces[0].new_zeros(query.shape[0] - start, pieces[0].shape[1]))
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def _mask(self, part: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """0 where a row of the part looks and −∞ elsewhere, [rows, 1, 1, tokens of the width]."""
        key = part, window, dtype
        if key not in self._masks:
            width, places, _ = self._parts[part]
            back = places[:, None] - torch.arange(width.tokens, device=places.device)
            hidden = back < 0 if window is None else (back < 0) | (back >= window)
            blank = torch.zeros(hidden.shape, dtype=dtype, device=places.device)
            self._masks[key] = blank.masked_fill_(hidden, -torch.inf)[:, None, None]
        return self._masks[key]
