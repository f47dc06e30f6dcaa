"""The choice of a token from scores: temperature, then top-k, then top-p, then inverse transform."""

from __future__ import annotations

import torch

from crucible_train.types import SamplingParams

__all__ = ["choose_tokens"]


def choose_tokens(scores: torch.Tensor, draws: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """One token id per row of ``scores`` (R, V), by a uniform draw in [0, 1) per row (R,).

    Temperature 0 takes the greatest score. ``top_k`` keeps the k greatest scores; ``top_p`` then keeps the
    smallest set of most probable tokens whose probability reaches p. Each row depends on its own scores and
    draw alone.
    """
    if params.temperature == 0:
        return scores.argmax(dim=1)
    vocabulary = scores.shape[1]
    scaled = scores.double() / params.temperature
    limited = params.top_k != -1 and params.top_k < vocabulary
    if not limited and params.top_p == 1:
        return _draw(torch.softmax(scaled, dim=1), draws)
    kept, order = scaled.sort(dim=1, descending=True, stable=True)
    if limited:
        kept, order = kept[:, : params.top_k], order[:, : params.top_k]
    probabilities = torch.softmax(kept, dim=1)
    before = probabilities.cumsum(dim=1) - probabilities
    probabilities = probabilities.masked_fill(before >= params.top_p, 0.0)
    return order.gather(1, _draw(probabilities, draws)[:, None])[:, 0]


def _draw(weights: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Index per row whose share of the running sum holds the draw; an index of weight 0 is never taken."""
    running = weights.cumsum(dim=1)
    aim = draws.to(weights.device)[:, None] * running[:, -1:]
    index = torch.searchsorted(running, aim, right=True)
    last = (weights > 0).double().cumsum(dim=1).argmax(dim=1, keepdim=True)
    return torch.minimum(index, last)[:, 0]
