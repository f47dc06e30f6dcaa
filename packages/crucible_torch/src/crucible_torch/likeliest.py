"""The likeliest tokens of a position: in order of probability, equal ones by id."""

from __future__ import annotations

import torch

from crucible_train.types import TopLogprobs

__all__ = ["greatest", "top_logprobs"]


def greatest(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` greatest of each row of ``scores`` (R, V) and their ids; equal ones by id."""
    rows = torch.arange(len(scores), device=scores.device)
    if count == scores.shape[1]:
        return scores.sort(dim=1, descending=True, stable=True)
    values, ids = scores.topk(count, dim=1)
    ids, by_id = ids.sort(dim=1)
    values, by_value = values.gather(1, by_id).sort(dim=1, descending=True, stable=True)
    ids = ids.gather(1, by_value)
    # where more tokens share the last value than there is room for, topk's choice among them is anyone's
    tied = rows[(scores >= values[:, -1:]).sum(dim=1) > count]
    if len(tied):
        values[tied], ids[tied] = (
            part[:, :count] for part in scores[tied].sort(dim=1, descending=True, stable=True)
        )
    return values, ids


def top_logprobs(scores: torch.Tensor, count: int) -> list[TopLogprobs]:
    """The ``count`` greatest of each row of ``scores`` (R, V) with their log-probabilities."""
    values, ids = greatest(scores, count)
    logprobs = values - torch.logsumexp(scores, dim=1, keepdim=True)
    return [
        tuple(zip(row, found, strict=True))
        for row, found in zip(ids.tolist(), logprobs.tolist(), strict=True)
    ]
