"""Attention without padding: packed sequences side by side, and one new token per row over a key/value store.

transformers' models call it through their attention registry under the name ``crucible_packed``; the plan of
a forward pass travels to every layer as the keyword ``crucible_plan``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from crucible_ir.errors import TrainError
from crucible_torch.packing import Run

__all__ = ["ATTENTION_NAME", "DecodePlan", "KeyValueStore", "PackedPlan", "attend", "register_attention"]

ATTENTION_NAME = "crucible_packed"
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


class KeyValueStore:
    """Keys and values per layer, [rows, heads, capacity, head_dim]; grows by doubling."""

    def __init__(self, *, rows: int, capacity: int) -> None:
        self.rows = rows
        self.capacity = capacity
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def fill(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Start every row with the same prompt: key and value are [1, heads, prompt, head_dim]."""
        length = key.shape[2]
        self.capacity = max(self.capacity, length)
        self._layers[layer] = tuple(self._blank(t) for t in (key, value))  # type: ignore[assignment]
        for stored, new in zip(self._layers[layer], (key, value), strict=True):
            stored[:, :, :length] = new

    def append(
        self, layer: int, position: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [rows, heads, 1, head_dim] at ``position``; return views of everything up to there."""
        stored = self._layers[layer]
        if position >= stored[0].shape[2]:
            self.capacity = max(self.capacity, 2 * stored[0].shape[2])
            stored = (self._grown(stored[0]), self._grown(stored[1]))
            self._layers[layer] = stored
        for kept, new in zip(stored, (key, value), strict=True):
            kept[:, :, position] = new[:, :, 0]
        return stored[0][:, :, : position + 1], stored[1][:, :, : position + 1]

    def _blank(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(self.rows, like.shape[1], self.capacity, like.shape[3])

    def _grown(self, old: torch.Tensor) -> torch.Tensor:
        new = self._blank(old)
        new[:, :, : old.shape[2]] = old
        return new


@dataclass(frozen=True, slots=True)
class PackedPlan:
    """Sequences side by side in one row; no token sees another sequence. ``store`` keeps keys and values."""

    runs: tuple[Run, ...]
    store: KeyValueStore | None = None


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """One new token per row at ``position``, over everything that the store holds before it."""

    store: KeyValueStore
    position: int


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    crucible_plan: PackedPlan | DecodePlan | None = None,
    **extra: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of [batch, heads, tokens, head_dim] into [batch, tokens, heads, head_dim].

    Raises:
        TrainError: the model asks for a kind of attention that is not here, or lost the plan on the way.
    """
    wanted = [name for name in _UNSUPPORTED if extra.get(name) is not None]
    if wanted or crucible_plan is None or attention_mask is not None:
        raise TrainError(
            what=f"{type(module).__name__} asks for attention with "
            f"{', '.join(wanted) or 'a mask of its own'}",
            where="local engine",
            remedy="use a model of plain causal attention, such as Llama, Qwen2, Qwen3, Mistral or GPT-2",
        )
    if isinstance(crucible_plan, DecodePlan):
        seen = crucible_plan.store.append(module.layer_idx, crucible_plan.position, key, value)
        return _decode(query, *seen, scaling, sliding_window), None
    if crucible_plan.store is not None:
        crucible_plan.store.fill(module.layer_idx, key, value)
    runs = crucible_plan.runs
    sizes = [run.count * run.length for run in runs]
    parts = zip(*(t[0].transpose(0, 1).split_with_sizes(sizes) for t in (query, key, value)), strict=True)
    pieces = [_run(run, part, (scaling, sliding_window)) for run, part in zip(runs, parts, strict=True)]
    joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=0)
    return joined.unsqueeze(0), None


def _run(run: Run, part: tuple[torch.Tensor, ...], settings: tuple[float | None, int | None]) -> torch.Tensor:
    """Attention within each sequence of a run: query, key, value as [tokens of the run, heads, head_dim]."""
    scaling, window = settings
    query, key, value = (
        t.reshape(run.count, run.length, t.shape[1], t.shape[2]).transpose(1, 2) for t in part
    )
    mask = None
    if window is not None and window < run.length:
        place = torch.arange(run.length, device=query.device)
        back = place[:, None] - place[None, :]
        mask = (back >= 0) & (back < window)
    out = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).reshape(run.count * run.length, out.shape[1], out.shape[3])


def _decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """The query heads that share a key head stand as query positions of it: nothing is repeated or masked."""
    rows, heads, _, width = query.shape
    if window is not None and window < keys.shape[2]:
        keys, values = keys[:, :, -window:], values[:, :, -window:]
    grouped = query.reshape(rows, keys.shape[1], heads // keys.shape[1], width)
    out = scaled_dot_product_attention(grouped, keys, values, scale=scaling)
    return out.reshape(rows, 1, heads, width)


def register_attention() -> None:
    """Make ``attend`` known to transformers; doing it again is harmless."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, attend)
