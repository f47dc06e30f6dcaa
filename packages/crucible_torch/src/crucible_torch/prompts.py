"""Prompts, read side by side in one pass: their last states, their log-probabilities, their keys and values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crucible_torch.inference import Inference
from crucible_torch.key_values import Seat, Width
from crucible_torch.likeliest import top_logprobs
from crucible_torch.prefixes import BLOCK
from crucible_torch.prompt_attention import PromptPart, PromptPlan
from crucible_train.types import TopLogprobs

__all__ = ["PromptScores", "Reading", "read_prompts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A prompt (P,), the seats that are to begin with it, and what is asked about it."""

    tokens: NDArray[np.int64]
    seats: Sequence[Seat] = ()
    logprobs: bool = False
    top: int = 0

    @property
    def asked(self) -> bool:
        """Whether anything is asked about its positions."""
        return self.logprobs or self.top > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScores:
    """Per position but the first: the log-probability of the token there, and the likeliest tokens there."""

    logprobs: tuple[float, ...] = ()
    top: tuple[TopLogprobs, ...] = ()


@torch.inference_mode()
def read_prompts(
    model: Inference, readings: Sequence[Reading], *, head_rows: int
) -> tuple[torch.Tensor, list[PromptScores]]:
    """Last hidden states (len(readings), width) and scores of prompts; their seats are written.

    What is known of a prompt's beginning is not read again, unless its positions are asked about.
    """
    states: dict[int, torch.Tensor] = {}
    scores: dict[int, PromptScores] = {}
    waiting = list(range(len(readings)))
    while waiting:
        known, taken, later = _wave(model, readings, waiting)
        spans, found = _pass(model, [readings[index] for index in taken], known)
        told = _scores(
            model, found, [(readings[i], span) for i, span in zip(taken, spans, strict=True)], head_rows
        )
        for index, span, told_of in zip(taken, spans, told, strict=True):
            states[index] = found[span.stop - 1]
            scores[index] = told_of
        waiting = later
    indices = range(len(readings))
    return torch.stack([states[index] for index in indices]), [scores[index] for index in indices]


def _wave(
    model: Inference, readings: Sequence[Reading], waiting: Sequence[int]
) -> tuple[list[list[torch.Tensor]], list[int], list[int]]:
    """Blocks that are known of those that are read now; those that wait for one of them to be read."""
    known: list[list[torch.Tensor]] = []
    now: list[int] = []
    later: list[int] = []
    coming: set[bytes] = set()
    for index in waiting:
        reading = readings[index]
        found = model.prefixes.find(model.version, reading.tokens) if not reading.asked else []
        first, whole = len(found) * BLOCK, (len(reading.tokens) - 1) // BLOCK * BLOCK
        begin = reading.tokens[: first + BLOCK].tobytes()
        if not reading.asked and model.prefixes.open and first < whole and begin in coming:
            later.append(index)
            continue
        coming.add(begin)
        known.append(found)
        now.append(index)
    return known, now, later


def _pass(
    model: Inference, readings: Sequence[Reading], known: Sequence[Sequence[torch.Tensor]]
) -> tuple[list[slice], torch.Tensor]:
    """One pass over what is new of prompts: where each one's states are, and states (rows, width).

    They are those of all its positions if it is asked about, else that of the last.
    """
    parts: list[PromptPart] = []
    tokens: list[NDArray[np.int64]] = []
    positions: list[NDArray[np.int64]] = []
    start = 0
    for reading, blocks in zip(readings, known, strict=True):
        first, length = len(blocks) * BLOCK, len(reading.tokens)
        tokens.append(reading.tokens[first:])
        positions.append(np.arange(first, length))
        parts.append(
            PromptPart(
                start=start,
                stop=start + length - first,
                known=blocks,
                new=model.new_blocks((length - 1) // BLOCK - len(blocks)),
                seats=_by_width(reading.seats),
                every=reading.asked,
            )
        )
        start = parts[-1].stop
    wanted = np.concatenate([part.wanted for part in parts])
    states = model.hidden(
        torch.from_numpy(np.concatenate(tokens)),
        torch.from_numpy(np.concatenate(positions)),
        PromptPlan(parts, model.layers),
        torch.from_numpy(wanted),
    )
    for reading, part in zip(readings, parts, strict=True):
        if part.new:
            model.prefixes.put(model.version, reading.tokens, part.new, first=len(part.known))
    ends = np.cumsum([len(part.wanted) for part in parts]).tolist()
    return [slice(end - len(part.wanted), end) for end, part in zip(ends, parts, strict=True)], states


def _by_width(seats: Sequence[Seat]) -> list[tuple[Width, list[int]]]:
    rows: defaultdict[Width, list[int]] = defaultdict(list)
    for seat in seats:
        rows[seat.width].append(seat.row)
    return list(rows.items())


def _scores(
    model: Inference, states: torch.Tensor, spans: Sequence[tuple[Reading, slice]], head_rows: int
) -> list[PromptScores]:
    """What is asked about each prompt; logits exist for ``head_rows`` positions at once."""
    found: list[PromptScores] = []
    asked = [(r, span) for r, span in spans if r.asked and len(r.tokens) > 1]
    picked: list[float] = []
    likeliest: list[TopLogprobs] = []
    if asked:
        index = torch.cat([torch.arange(span.start, span.stop - 1) for _, span in asked]).to(states.device)
        targets = torch.from_numpy(np.concatenate([r.tokens[1:] for r, _ in asked])).to(states.device)
        top = max(r.top for r, _ in asked)
        for first in range(0, len(index), head_rows):
            part, wanted = index[first : first + head_rows], targets[first : first + head_rows]
            scores = model.logits(states[part])
            chosen = scores.gather(1, wanted[:, None])[:, 0] - torch.logsumexp(scores, dim=1)
            picked += chosen.tolist()
            likeliest += top_logprobs(scores, top) if top else [()] * len(part)
    start = 0
    for reading, _ in spans:
        count = len(reading.tokens) - 1 if reading.asked else 0
        part_of = slice(start, start + count)
        found.append(
            PromptScores(
                logprobs=tuple(picked[part_of]) if reading.logprobs else (),
                top=tuple(row[: reading.top] for row in likeliest[part_of]) if reading.top else (),
            )
        )
        start += count
    return found
