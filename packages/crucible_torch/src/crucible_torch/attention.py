"""Attention without padding: packed sequences side by side, and plans of the rows that are sampled or scored.

transformers' models call it through their attention registry under the name ``crucible_packed``; the plan of
a forward pass travels to every layer as the keyword ``crucible_plan``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from crucible_ir.errors import TrainError
from crucible_torch.nodes import causal_attention
from crucible_torch.packing import Branch, Run

__all__ = ["ATTENTION_NAME", "PackedPlan", "RowPlan", "attend", "register_attention"]

ATTENTION_NAME = "crucible_packed"
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


@dataclass(frozen=True, slots=True)
class PackedPlan:
    """Sequences side by side in one row; no token sees another sequence, but a branch sees the one it goes on from."""

    runs: tuple[Run, ...]
    branches: tuple[Branch, ...] = ()
    _masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict, compare=False)

    def attend(
        self,
        streams: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """[heads, tokens, head_dim] of query, key and value into [tokens, heads, head_dim].

        The row is cut up once, and every piece used whole: gradients come back in one piece too.
        """
        laid: tuple[Run | Branch, ...] = (*self.runs, *self.branches)
        sizes = [piece.count * piece.length for piece in laid]
        cut = [t.transpose(0, 1).split_with_sizes(sizes) for t in streams]
        parts = [
            [_stacked(t, piece.count, piece.length) for t in part]
            for piece, part in zip(laid, zip(*cut, strict=True), strict=True)
        ]
        settings = scaling, window
        pieces = [_run(run, part, settings) for run, part in zip(self.runs, parts, strict=False)]
        roots: dict[int, list[tuple[torch.Tensor, ...]]] = {}
        for branch, part in zip(self.branches, parts[len(self.runs) :], strict=True):
            if branch.run not in roots:
                roots[branch.run] = [t.unbind(0) for t in parts[branch.run][1:]]
            root = [t[branch.place] for t in roots[branch.run]]
            key, value = (
                torch.cat([first.expand(branch.count, -1, -1, -1), rest], dim=2)
                for first, rest in zip(root, part[1:], strict=True)
            )
            mask = self._mask(root[0].shape[1], branch.length, window, part[0])
            pieces.append(_plain((part[0], key, value), mask, scaling))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=0)

    def _mask(self, before: int, length: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """0 where one of ``length`` tokens looks and −∞ elsewhere, [length, before + length]."""
        key = before, length, window
        if key not in self._masks:
            place = torch.arange(before + length, device=like.device)
            back = place[before:, None] - place
            hidden = back < 0 if window is None else (back < 0) | (back >= window)
            self._masks[key] = like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        return self._masks[key]


class RowPlan(Protocol):
    """Who sees whom among the rows of a pass that samples or scores."""

    def attend(
        self,
        layer: int,
        streams: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        how: tuple[float, int | None],
    ) -> torch.Tensor:
        """Query, key and value [rows, heads, head_dim], with scaling and window, into [rows, heads × head_dim]."""
        ...


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    crucible_plan: PackedPlan | RowPlan | None = None,
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
    streams = query[0], key[0], value[0]
    if isinstance(crucible_plan, PackedPlan):
        return crucible_plan.attend(streams, scaling, sliding_window).unsqueeze(0), None
    query, key, value = (t.transpose(0, 1) for t in streams)
    how = query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window
    return crucible_plan.attend(module.layer_idx, (query, key, value), how).view(1, *query.shape), None


def _stacked(tokens: torch.Tensor, count: int, length: int) -> torch.Tensor:
    """[count · length, heads, head_dim] as [count, heads, length, head_dim]."""
    return tokens.reshape(count, length, *tokens.shape[1:]).transpose(1, 2)


def _run(run: Run, part: Sequence[torch.Tensor], settings: tuple[float | None, int | None]) -> torch.Tensor:
    """Attention within each sequence of a run: query, key, value as [count, heads, length, head_dim]."""
    scaling, window = settings
    mask = None
    if window is not None and window < run.length:
        place = torch.arange(run.length, device=part[0].device)
        back = place[:, None] - place[None, :]
        mask = (back >= 0) & (back < window)
    return _plain(part, mask, scaling)


def _plain(part: Sequence[torch.Tensor], mask: torch.Tensor | None, scaling: float | None) -> torch.Tensor:
    """Attention of stacked sequences, causal without a mask, into [count · length, heads, head_dim]."""
    query, key, value = part
    if mask is None:
        out = causal_attention(query, key, value, scaling)
    else:
        shared = query.shape[1] != key.shape[1]
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=shared
        )
    return out.transpose(1, 2).reshape(-1, out.shape[1], out.shape[3])


def register_attention() -> None:
    """Make ``attend`` known to transformers; doing it again is harmless."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, attend)
