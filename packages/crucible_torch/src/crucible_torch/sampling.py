"""Sampling on the engine's thread: the prompt once, then one token per row and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from crucible_torch.adapter import Adapter
from crucible_torch.attention import DecodePlan, KeyValueStore, PackedPlan
from crucible_torch.choice import choose_tokens
from crucible_torch.head import score
from crucible_torch.likeliest import top_logprobs
from crucible_torch.model import LoadedModel
from crucible_torch.packing import Run
from crucible_torch.stopping import StopRule
from crucible_train.types import SampledSequence, SamplingParams, TopLogprobs

__all__ = ["SamplingJob", "prompt_logprobs", "sample", "topk_prompt_logprobs"]

_MIN_ROWS = 4
"""Matrix products of 1-3 rows differ in the last bit from those of 4 and more, so rows are never fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingJob:
    """One request: the prompt (P,), how to sample, when to stop, and one random stream per sample."""

    prompt: NDArray[np.int64]
    params: SamplingParams
    stop: StopRule
    streams: Sequence[np.random.Generator]


class _Row:
    """One sequence as it grows."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.reason: Literal["stop", "length"] | None = None


@torch.inference_mode()
def sample(model: LoadedModel, adapter: Adapter | None, job: SamplingJob) -> tuple[SampledSequence, ...]:
    """Continuations of one prompt, with log-probabilities at temperature 1."""
    wanted = len(job.streams)
    rows = max(_MIN_ROWS, wanted)
    with model.using(adapter):
        store = KeyValueStore(rows=rows, capacity=len(job.prompt) + min(job.params.max_tokens, 64))
        last = _prefill(model, job.prompt, store)[-1:].expand(rows, -1)
        made = [_Row() for _ in range(wanted)]
        for step in range(job.params.max_tokens):
            tokens, logprobs = _choose(model, last, job)
            for row, token, logprob in zip(made, tokens.tolist(), logprobs.tolist(), strict=False):
                _grow(row, token, logprob, job)
            if all(row.reason for row in made) or step + 1 == job.params.max_tokens:
                break
            last = _decode(model, tokens, len(job.prompt) + step, store)
    return tuple(
        SampledSequence(
            tokens=tuple(row.tokens), logprobs=tuple(row.logprobs), stop_reason=row.reason or "length"
        )
        for row in made
    )


@torch.inference_mode()
def prompt_logprobs(
    model: LoadedModel, adapter: Adapter | None, prompt: NDArray[np.int64], *, head_rows: int
) -> tuple[float | None, ...]:
    """Log-probability of each prompt token given those before it; None at the first."""
    if len(prompt) == 1:
        return (None,)
    with model.using(adapter):
        states = _prefill(model, prompt, None)
        targets = torch.from_numpy(prompt[1:, None]).to(model.device)
        found, _ = score(model, states[:-1], targets, coefficients=None, head_rows=head_rows)
    values: list[float] = found[:, 0].tolist()
    return (None, *values)


@torch.inference_mode()
def topk_prompt_logprobs(
    model: LoadedModel, adapter: Adapter | None, prompt: NDArray[np.int64], count: int, *, head_rows: int
) -> tuple[TopLogprobs | None, ...]:
    """The ``count`` likeliest tokens of each position given those before it; None at the first."""
    with model.using(adapter):
        states = _prefill(model, prompt, None)[:-1]
        parts = [model.logits(part) for part in states.split(head_rows)] if len(prompt) > 1 else []
        return (None, *(row for part in parts for row in top_logprobs(part.float(), count)))


def _prefill(model: LoadedModel, prompt: NDArray[np.int64], store: KeyValueStore | None) -> torch.Tensor:
    """Hidden states (P, width) of the prompt."""
    tokens = torch.from_numpy(prompt)[None].to(model.device)
    positions = torch.arange(len(prompt), device=model.device)[None]
    return model.hidden(tokens, positions, PackedPlan((Run(0, 1, len(prompt)),), store))[0]


def _decode(model: LoadedModel, tokens: torch.Tensor, position: int, store: KeyValueStore) -> torch.Tensor:
    """Hidden states (rows, width) of one new token per row."""
    positions = torch.full((store.rows, 1), position, device=model.device)
    return model.hidden(tokens[:, None], positions, DecodePlan(store, position))[:, 0]


def _choose(model: LoadedModel, states: torch.Tensor, job: SamplingJob) -> tuple[torch.Tensor, torch.Tensor]:
    """Next token and its log-probability per row; rows beyond the samples wanted repeat the first."""
    scores = model.logits(states).float()
    draws = [stream.random() for stream in job.streams]
    draws += [draws[0]] * (states.shape[0] - len(draws))
    tokens = choose_tokens(scores, torch.tensor(draws, dtype=torch.float64), job.params)
    picked = scores.gather(1, tokens[:, None])[:, 0]
    return tokens, picked - torch.logsumexp(scores, dim=1)


def _grow(row: _Row, token: int, logprob: float, job: SamplingJob) -> None:
    if row.reason is not None:
        return
    row.tokens.append(token)
    row.logprobs.append(logprob)
    if job.stop.ends(row.tokens):
        row.reason = "stop"
