"""Prompts, read side by side in one pass: their last states, their log-probabilities, their keys and values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crucible_torch.attention import PackedPlan
from crucible_torch.key_values import Seat, Width
from crucible_torch.likeliest import top_logprobs
from crucible_torch.model import LoadedModel
from crucible_torch.packing import Run
from crucible_torch.rows import ROW_MULTIPLE, padded, padding
from crucible_train.types import TopLogprobs

__all__ = ["PromptScores", "Reading", "read_prompts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A prompt (P,), the seats that are to begin with it, and what is asked about it."""

    tokens: NDArray[np.int64]
    seats: Sequence[Seat] = ()
    logprobs: bool = False
    top: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScores:
    """Per position but the first: the log-probability of the token there, and the likeliest tokens there."""

    logprobs: tuple[float, ...] = ()
    top: tuple[TopLogprobs, ...] = ()


@torch.inference_mode()
def read_prompts(
    model: LoadedModel, readings: Sequence[Reading], *, head_rows: int
) -> tuple[torch.Tensor, list[PromptScores]]:
    """Last hidden states (len(readings), width) and scores of prompts; their seats are written."""
    order = sorted(range(len(readings)), key=lambda i: len(readings[i].tokens))
    sizes = [len(readings[i].tokens) + padding(len(readings[i].tokens)) for i in order]
    tokens = np.zeros(sum(sizes), dtype=np.int64)
    spans: dict[int, slice] = {}
    start = 0
    for index, size in zip(order, sizes, strict=True):
        spans[index] = slice(start, start + len(readings[index].tokens))
        tokens[spans[index]] = readings[index].tokens
        start += size
    positions = np.concatenate([np.arange(size) for size in sizes])
    writes = [(spans[i], width, rows) for i, r in enumerate(readings) for width, rows in _by_width(r.seats)]

    def keep(layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        for span, width, rows in writes:
            width.write(layer, rows, (key[:, span], value[:, span]))

    plan = PackedPlan(tuple(_runs(sizes)), keep=keep if writes else None)
    states = model.hidden(
        torch.from_numpy(tokens)[None].to(model.device),
        torch.from_numpy(positions)[None].to(model.device),
        plan,
    )[0]
    last = states[[spans[index].stop - 1 for index in range(len(readings))]]
    return last, _scores(model, states, [(r, spans[i]) for i, r in enumerate(readings)], head_rows)


def _by_width(seats: Sequence[Seat]) -> list[tuple[Width, list[int]]]:
    rows: defaultdict[Width, list[int]] = defaultdict(list)
    for seat in seats:
        rows[seat.width].append(seat.row)
    return list(rows.items())


def _runs(sizes: Sequence[int]) -> Iterator[Run]:
    """Neighbours of equal length are one run."""
    start = index = 0
    while index < len(sizes):
        count = 1
        while index + count < len(sizes) and sizes[index + count] == sizes[index]:
            count += 1
        yield Run(start, count, sizes[index])
        start += count * sizes[index]
        index += count


def _scores(
    model: LoadedModel, states: torch.Tensor, spans: Sequence[tuple[Reading, slice]], head_rows: int
) -> list[PromptScores]:
    """What is asked about each prompt; logits exist for ``head_rows`` positions at once."""
    found: list[PromptScores] = []
    asked = [(r, span) for r, span in spans if (r.logprobs or r.top) and len(r.tokens) > 1]
    picked: list[float] = []
    likeliest: list[TopLogprobs] = []
    if asked:
        index = torch.cat([torch.arange(span.start, span.stop - 1) for _, span in asked]).to(states.device)
        targets = torch.from_numpy(np.concatenate([r.tokens[1:] for r, _ in asked])).to(states.device)
        top = max(r.top for r, _ in asked)
        step = max(ROW_MULTIPLE, head_rows - head_rows % ROW_MULTIPLE)
        for first in range(0, len(index), step):
            part, wanted = index[first : first + step], targets[first : first + step]
            scores = model.logits(padded(states[part])).float()[: len(part)]
            chosen = scores.gather(1, wanted[:, None])[:, 0] - torch.logsumexp(scores, dim=1)
            picked += chosen.tolist()
            likeliest += top_logprobs(scores, top) if top else [()] * len(part)
    start = 0
    for reading, _ in spans:
        count = len(reading.tokens) - 1 if reading.logprobs or reading.top else 0
        part_of = slice(start, start + count)
        found.append(
            PromptScores(
                logprobs=tuple(picked[part_of]) if reading.logprobs else (),
                top=tuple(row[: reading.top] for row in likeliest[part_of]) if reading.top else (),
            )
        )
        start += count
    return found
