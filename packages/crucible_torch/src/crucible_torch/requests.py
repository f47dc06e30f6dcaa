"""A request for samples, and what becomes of it while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crucible_torch.key_values import Seat
from crucible_torch.prompts import PromptScores
from crucible_torch.stopping import StopRule
from crucible_train.types import SampledSequence, SampleResponse, SamplingParams

__all__ = ["Row", "Running", "SampleRequest"]

_DRAWN_AHEAD = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleRequest:
    """The prompt (P,), how to sample, when to stop, one random stream per sample, and what is asked of the prompt.

    ``result`` makes of the response what ``future`` is to hold.
    """

    prompt: NDArray[np.int64]
    params: SamplingParams
    stop: StopRule
    streams: Sequence[np.random.Generator]
    logprobs: bool = False
    top: int = 0
    result: Callable[[SampleResponse], Any]
    future: Future[Any] = field(default_factory=Future)


class Running:
    """A request on its way: its sequences that are over, and how many have begun."""

    __slots__ = ("begun", "key", "over", "request", "scores")

    def __init__(self, request: SampleRequest) -> None:
        self.request = request
        self.key = request.prompt.tobytes()
        self.begun = 0
        self.over: dict[int, SampledSequence] = {}
        self.scores = None if request.logprobs or request.top else PromptScores()

    @property
    def left(self) -> int:
        """Sequences that have not begun."""
        return len(self.request.streams) - self.begun

    def settle(self) -> None:
        """Hand the response out if everything is there."""
        request = self.request
        if self.scores is None or len(self.over) < len(request.streams) or request.future.done():
            return
        response = SampleResponse(
            sequences=tuple(self.over[index] for index in range(len(self.over))),
            prompt_logprobs=(None, *self.scores.logprobs) if request.logprobs else None,
            topk_prompt_logprobs=(None, *self.scores.top) if request.top else None,
        )
        request.future.set_result(request.result(response))

    def fail(self, error: BaseException) -> None:
        """Hand the error out, unless the request is settled."""
        if not self.request.future.done():
            self.request.future.set_exception(error)


class Row:
    """A sequence as it grows. ``seat`` is None if its first token is its last."""

    __slots__ = ("_draws", "_stream", "index", "logprobs", "owner", "seat", "tokens")

    def __init__(self, owner: Running, index: int, seat: Seat | None) -> None:
        self.owner = owner
        self.index = index
        self.seat = seat
        self._stream = owner.request.streams[index]
        self._draws: Iterator[float] = iter(())
        self.tokens: list[int] = []
        self.logprobs: list[float] = []

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the sequence."""
        return len(self.owner.request.prompt) + len(self.tokens)

    def draw(self) -> float:
        """The next number in [0, 1) of the sequence's own stream."""
        drawn = next(self._draws, None)
        if drawn is None:
            self._draws = iter(self._stream.random(_DRAWN_AHEAD).tolist())
            drawn = next(self._draws)
        return drawn

    def grow(self, token: int, logprob: float) -> bool:
        """Take a token; whether the sequence is over, which its owner then has."""
        request = self.owner.request
        self.tokens.append(token)
        self.logprobs.append(logprob)
        stopped = request.stop.ends(self.tokens)
        if not stopped and len(self.tokens) < request.params.max_tokens:
            return False
        self.owner.over[self.index] = SampledSequence(
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            stop_reason="stop" if stopped else "length",
        )
        return True
