"""The choice of a token from scores: temperature, then top-k, then top-p, then inverse transform."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from crucible_torch.likeliest import greatest
from crucible_train.types import SamplingParams

__all__ = ["choose_tokens"]

_BLOCK = 64
_FIRST_LOOK = 128


def choose_tokens(
    scores: torch.Tensor, draws: torch.Tensor, params: Sequence[SamplingParams]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token id per row of ``scores`` (R, V) float32 and its log-probability at temperature 1.

    ``draws`` (R,) float64 are uniform in [0, 1). Temperature 0 takes the greatest score. ``top_k`` keeps the k
    greatest scores; ``top_p`` then keeps the smallest set of most probable tokens whose probability reaches p.
    Each row depends on its own scores, draw and settings alone.
    """
    draws = draws.to(scores.device)
    top = scores.amax(dim=1, keepdim=True)
    powers = (scores - top).exp_()
    sums = _Sums(powers)
    vocabulary = scores.shape[1]
    groups: dict[tuple[float, int, float], list[int]] = {}
    for index, one in enumerate(params):
        limit = vocabulary if one.top_k == -1 else min(one.top_k, vocabulary)
        groups.setdefault((one.temperature, limit, one.top_p), []).append(index)
    if list(groups) == [(1.0, vocabulary, 1.0)]:
        tokens = sums.holding(draws)
    else:
        tokens = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
        for (temperature, limit, top_p), rows in groups.items():
            tokens[rows] = _chosen(scores[rows], top[rows], draws[rows], (temperature, limit, top_p))
    picked = scores.gather(1, tokens[:, None]) - top
    return tokens, (picked - sums.total.log())[:, 0].float()


def _chosen(
    scores: torch.Tensor, top: torch.Tensor, draws: torch.Tensor, settings: tuple[float, int, float]
) -> torch.Tensor:
    """Tokens of rows of equal settings: temperature, top-k and top-p."""
    temperature, limit, top_p = settings
    if temperature == 0:
        return scores.argmax(dim=1)
    sums = None
    if limit == scores.shape[1]:
        sums = _Sums(((scores - top) / temperature).exp_())
        if top_p == 1:
            return sums.holding(draws)
    tokens = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    left = torch.arange(len(scores), device=scores.device)
    count = limit if sums is None else min(_FIRST_LOOK, limit)
    while len(left):
        kept, order = greatest(scores[left], count)
        weights = ((kept - top[left]).double() / temperature).exp_()
        total = weights.sum(dim=1, keepdim=True) if sums is None else sums.total[left]
        reached = weights.cumsum(dim=1)
        enough = (reached[:, -1:] >= top_p * total)[:, 0] if count < limit else left >= 0
        weights[reached - weights >= top_p * total] = 0.0
        tokens[left[enough]] = order.gather(1, _draw(weights, draws[left])[:, None])[enough, 0]
        left, count = left[~enough], limit
    return tokens


class _Sums:
    """Weights (R, V) float32 of tokens, summed in blocks: the running sum of few blocks replaces that of all."""

    __slots__ = ("_blocks", "_running", "total")

    def __init__(self, weights: torch.Tensor) -> None:
        missing = -weights.shape[1] % _BLOCK
        self._blocks = (pad(weights, (0, missing)) if missing else weights).view(len(weights), -1, _BLOCK)
        self._running = self._blocks.sum(dim=2).double().cumsum(dim=1)
        self.total = self._running[:, -1:].contiguous()

    def holding(self, draws: torch.Tensor) -> torch.Tensor:
        """The token per row whose share of the running sum holds the draw; one of weight 0 is never taken."""
        aim = draws[:, None] * self.total
        found = torch.searchsorted(self._running, aim, right=True)
        block = torch.minimum(found, torch.searchsorted(self._running, self.total))
        before = torch.where(block > 0, self._running.gather(1, (block - 1).clamp_(min=0)), 0.0)
        weights = self._blocks[torch.arange(len(aim), device=aim.device), block[:, 0]]
        running = weights.double().cumsum(dim=1)
        place = torch.searchsorted(running, aim - before, right=True)
        last = torch.searchsorted(running, running[:, -1:].clone())
        return (block * _BLOCK + torch.minimum(place, last))[:, 0]


def _draw(weights: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Index per row whose share of the running sum holds the draw; an index of weight 0 is never taken."""
    running = weights.cumsum(dim=1)
    total = running[:, -1:].clone()
    index = torch.searchsorted(running, draws[:, None] * total, right=True)
    return torch.minimum(index, torch.searchsorted(running, total))[:, 0]
