"""Log-probabilities of chosen targets and their gradient, a bounded number of positions at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from crucible_torch.model import LoadedModel
from crucible_torch.output_layer import output_layer

__all__ = ["Coefficients", "pieces_of", "score"]

Coefficients = Callable[[slice, torch.Tensor], torch.Tensor]
"""∂loss/∂logprobs (r, K) of the rows in a slice, given their log-probabilities (r, K)."""


def pieces_of(rows: int, head_rows: int) -> list[slice]:
    """All rows, at most ``head_rows`` in a piece."""
    return [slice(start, min(start + head_rows, rows)) for start in range(0, rows, head_rows)]


def score(
    model: LoadedModel,
    states: torch.Tensor,
    targets: torch.Tensor,
    *,
    coefficients: Coefficients | None,
    pieces: Iterable[slice],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities (R, K) float32 of ``targets`` (R, K) after ``states`` (R, width).

    With ``coefficients`` c (R, K) the second result is ∂(Σ c·lp)/∂states, and the gradient for the head's own
    weights is added to them. Logits exist for one of ``pieces`` at once; together these are all rows. The
    coefficients of a piece are asked for when its log-probabilities are known. The gradient for the logits z of
    a position is analytic: Σₖ cₖ·(onehot(targetₖ) − softmax(z)); it takes the place of the logits.
    """
    layer = output_layer(model)
    logprobs = torch.empty(targets.shape, dtype=torch.float32, device=states.device)
    grads = None if coefficients is None else torch.zeros_like(states)
    with torch.no_grad():
        for part in pieces:
            piece = states[part].detach()
            logits = layer.logits(piece)
            powers = logits.float()
            top = powers.amax(dim=1, keepdim=True)
            picked = powers.gather(1, targets[part]) - top
            total = powers.sub_(top).exp_().sum(dim=1, keepdim=True)
            logprobs[part] = picked - total.log()
            if coefficients is None or grads is None:
                continue
            factor = coefficients(part, logprobs[part])
            if not bool(factor.any()):
                continue
            slope = powers.mul_(factor.sum(dim=1, keepdim=True).neg_().div_(total))
            slope.scatter_add_(1, targets[part], factor)
            grads[part] = layer.pull(piece, slope if slope is logits else logits.copy_(slope))
    return logprobs, grads
