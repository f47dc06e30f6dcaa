"""Attention of prompts that are read side by side, each after what is known of it already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.functional import scaled_dot_product_attention

from crucible_torch.key_values import Width
from crucible_torch.prefixes import BLOCK

__all__ = ["PromptPart", "PromptPlan"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptPart:
    """Rows ``start`` to ``stop`` of a pass: a prompt after its blocks ``known``.

    Keys and values of the whole prompt go to ``seats``, rows by width; those of its new whole blocks to ``new``.
    ``every`` asks for the last states of all rows, not only of the last one.
    """

    start: int
    stop: int
    known: Sequence[torch.Tensor] = ()
    new: Sequence[torch.Tensor] = ()
    seats: Sequence[tuple[Width, list[int]]] = ()
    every: bool = False

    @property
    def wanted(self) -> range:
        """Rows whose last states are asked for."""
        return range(self.start if self.every else self.stop - 1, self.stop)


@dataclass(slots=True)
class PromptPlan:
    """Causal attention within each part.

    A block of a prompt looks back in a call of its own, over no more keys than it sees: a call has the same shape
    whatever is read beside it and whatever was known before. In the last of ``layers`` only blocks look whose
    states are asked for.
    """

    parts: Sequence[PromptPart]
    layers: int
    _masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict)

    def attend(
        self,
        layer: int,
        streams: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        how: tuple[float, int | None],
    ) -> torch.Tensor:
        """Query, key and value [rows, heads, head_dim] into [rows, heads × head_dim]; rows of no part into 0."""
        query = streams[0]
        out = query.new_empty(len(query), query.shape[1] * query.shape[2])
        out[self.parts[-1].stop :] = 0
        for part in self.parts:
            key, value = (t[part.start : part.stop].transpose(0, 1) for t in streams[1:])
            _keep(part, layer, key, value)
            if part.known:
                key = torch.cat([*(block[layer, 0] for block in part.known), key], dim=1)
                value = torch.cat([*(block[layer, 1] for block in part.known), value], dim=1)
            for width, rows in part.seats:
                width.write(layer, rows, (key, value))
            whole = part.every or layer < self.layers - 1
            first = part.start if whole else part.start + (part.stop - part.start - 1) // BLOCK * BLOCK
            self._look_back(part, first, (query, key, value), how, out)
        return out

    def _look_back(
        self,
        part: PromptPart,
        first: int,
        streams: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        how: tuple[float, int | None],
        out: torch.Tensor,
    ) -> None:
        scaling, window = how
        query, key, value = streams
        before = len(part.known) * BLOCK
        for start in range(first, part.stop, BLOCK):
            stop = min(start + BLOCK, part.stop)
            seen = before + stop - part.start
            # query heads that share a key head stand as query positions of it: nothing is repeated
            heads = query[start:stop].view(stop - start, len(key), -1, query.shape[2]).transpose(0, 1)
            group = heads.shape[2]
            grouped = heads.reshape(1, len(key), -1, heads.shape[3])
            found = scaled_dot_product_attention(
                grouped,
                key[None, :, :seen],
                value[None, :, :seen],
                attn_mask=self._mask(query, stop - start, seen, window).repeat_interleave(group, 0),
                scale=scaling,
            )
            out[start:stop] = found[0].view(heads.shape).transpose(0, 1).reshape(stop - start, -1)

    def _mask(self, query: torch.Tensor, count: int, seen: int, window: int | None) -> torch.Tensor:
        """0 where a token looks and −∞ elsewhere, [count, keys]: the last ``count`` of ``seen`` tokens look."""
        if (count, seen, window) not in self._masks:
            back = torch.arange(seen - count, seen)[:, None] - torch.arange(seen)
            hidden = back < 0 if window is None else (back < 0) | (back >= window)
            mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
            self._masks[count, seen, window] = mask.to(query.device, query.dtype)
        return self._masks[count, seen, window]


def _keep(part: PromptPart, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
    for index, block in enumerate(part.new):
        span = slice(index * BLOCK, (index + 1) * BLOCK)
        block[layer, 0], block[layer, 1] = key[:, span], value[:, span]
