"""Log-probabilities of chosen targets and their gradient, a bounded number of positions at a time."""

from __future__ import annotations

import torch

from crucible_torch.model import LoadedModel

__all__ = ["score"]


def score(
    model: LoadedModel,
    states: torch.Tensor,
    targets: torch.Tensor,
    *,
    coefficients: torch.Tensor | None,
    head_rows: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities (R, K) float32 of ``targets`` (R, K) after ``states`` (R, width).

    With ``coefficients`` c (R, K) the second result is ∂(Σ c·lp)/∂states, and the gradient for the head's own
    weights is added to them. Logits exist for ``head_rows`` positions at once. The gradient for the logits
    z of a position is analytic: Σₖ cₖ·(onehot(targetₖ) − softmax(z)).
    """
    logprobs = torch.empty(targets.shape, dtype=torch.float32, device=states.device)
    grads = None if coefficients is None else torch.empty_like(states)
    for start in range(0, states.shape[0], head_rows):
        part = slice(start, start + head_rows)
        piece = states[part].detach().requires_grad_(grads is not None)
        with torch.set_grad_enabled(grads is not None):
            logits = model.logits(piece)
        with torch.no_grad():
            scores = logits.detach().float()
            top = scores.amax(dim=1, keepdim=True)
            picked = scores.gather(1, targets[part]) - top
            powers = scores.sub_(top).exp_()
            total = powers.sum(dim=1, keepdim=True)
            logprobs[part] = picked - total.log()
            if coefficients is None or grads is None:
                continue
            factor = coefficients[part]
            slope = powers.mul_(factor.sum(dim=1, keepdim=True).neg_().div_(total))
            slope.scatter_add_(1, targets[part], factor)
        torch.autograd.backward(logits, slope.to(logits.dtype))
        if piece.grad is not None:
            grads[part] = piece.grad
    return logprobs, grads
