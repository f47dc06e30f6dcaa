"""Sampling on the engine's thread: requests of the same weights grow together, one token per sequence and step.

Every sequence is what it would be alone, bit for bit in float32 on a CPU: a row of a matrix product does not depend
on the others (``products``), and attention is computed per width (``key_values``).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch

from crucible_torch.choice import choose_tokens
from crucible_torch.decode_attention import DecodePlan
from crucible_torch.inference import Inference
from crucible_torch.key_values import KeyValueStore, Seat, Width
from crucible_torch.memory import memory_errors
from crucible_torch.prompts import PromptScores, Reading, read_prompts
from crucible_torch.requests import Row, Running, SampleRequest
from crucible_torch.settings import EngineSettings

__all__ = ["SamplingPool"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplingPool:
    """Weights whose requests are sampled together."""

    inference: Inference
    settings: EngineSettings

    @property
    def key(self) -> Hashable:
        """Equal for the same weights."""
        return self.inference.key

    def run(self, requests: Sequence[SampleRequest], more: Callable[[], Sequence[SampleRequest]]) -> None:
        """Sample them all, and those that come meanwhile; results and errors go into their futures."""
        batch = _Batch(self.inference, self.settings)
        with self.inference.ready():
            batch.wait_for(requests)
            while batch.busy:
                batch.wait_for(more())
                batch.step()


class _Prompt:
    """A prompt: its last state once it was read, and the rows that live of it."""

    __slots__ = ("rows", "state")

    def __init__(self) -> None:
        self.state: torch.Tensor | None = None
        self.rows: list[Row] = []


class _Batch:
    """Sequences that grow together, at most so many at once, and requests that wait for room."""

    def __init__(self, model: Inference, settings: EngineSettings) -> None:
        self._model = model
        self._head_rows = settings.rows_of_logits(model.model.vocab_size)
        device = model.model.device.type
        self._max_rows = settings.rows_at_once(device)
        self._max_tokens = settings.tokens_per_pass(device)
        self._waiting: deque[Running] = deque()
        self._clear()

    @property
    def busy(self) -> bool:
        """Whether anything grows or waits."""
        return bool(self._rows or self._waiting)

    def wait_for(self, requests: Iterable[SampleRequest]) -> None:
        """Put requests behind those that wait."""
        self._waiting += (Running(r) for r in requests if r.future.set_running_or_notify_cancel())

    def step(self) -> None:
        """Begin what there is room for, then one token for every row.

        What goes wrong is the error of the requests that take part; those that wait go on.
        """
        chosen = self._chosen()
        taking_part = dict.fromkeys([*(row.owner for row in self._rows), *(running for running, _ in chosen)])
        try:
            with memory_errors("max_sample_rows, micro_batch_tokens or head_rows"):
                self._begin(chosen)
                self._grow()
        except Exception as error:  # noqa: BLE001 - handed on to whoever awaits
            self._clear()
            for running in taking_part:
                running.fail(error)
            self._waiting = deque(w for w in self._waiting if w not in taking_part)
            return
        for running in taking_part:
            running.settle()

    def _clear(self) -> None:
        self._rows: list[Row] = []
        self._states: torch.Tensor | None = None
        self._prompts: dict[bytes, _Prompt] = {}
        self._store = KeyValueStore()

    def _chosen(self) -> list[tuple[Running, int]]:
        """Requests that begin now, in order, with the number of their sequences that do."""
        chosen: list[tuple[Running, int]] = []
        room, tokens = self._max_rows - len(self._rows), self._max_tokens
        read: set[bytes] = set()
        while self._waiting:
            running = self._waiting[0]
            count = min(running.left, room)
            unread = running.key not in read and (running.scores is None or running.key not in self._prompts)
            cost = len(running.request.prompt) if unread else 0
            if (running.left and not count) or (read and cost > tokens):
                break
            chosen.append((running, count))
            room -= count
            tokens -= cost
            if unread:
                read.add(running.key)
            if count < running.left:
                break
            self._waiting.popleft()
        return chosen

    @torch.inference_mode()
    def _begin(self, chosen: Sequence[tuple[Running, int]]) -> None:
        """Make rows, read the prompts that no living row has, and give the rows their first state."""
        rows: list[Row] = []
        readers: dict[bytes, list[Running]] = {}
        for running, count in chosen:
            prompt = self._prompts.setdefault(running.key, _Prompt())
            if prompt.state is None or running.scores is None:
                readers.setdefault(running.key, []).append(running)
            rows += [self._row(running) for _ in range(count)]
        seats: defaultdict[bytes, list[Seat]] = defaultdict(list)
        for row in rows:
            if row.seat is None:
                continue
            if row.owner.key in readers:
                seats[row.owner.key].append(row.seat)
            else:
                self._copy_prompt(row)
        if readers:
            self._read(readers, seats)
        if rows:
            states = [self._states] if self._states is not None else []
            self._states = torch.cat([*states, torch.stack([self._first_state(row) for row in rows])])
            self._rows += rows
        for row in rows:
            if row.seat is not None:
                self._prompts[row.owner.key].rows.append(row)
        for key in {running.key for running, _ in chosen}:
            self._forget(key)

    def _row(self, owner: Running) -> Row:
        request = owner.request
        seat = self._store.seat(len(request.prompt) + 1) if request.params.max_tokens > 1 else None
        owner.begun += 1
        return Row(owner, owner.begun - 1, seat)

    def _copy_prompt(self, row: Row) -> None:
        source = self._prompts[row.owner.key].rows[0].seat
        if row.seat is not None and source is not None:
            row.seat.width.copy(row.seat, source, row.length)

    def _read(self, readers: dict[bytes, list[Running]], seats: dict[bytes, list[Seat]]) -> None:
        """One pass over prompts: states of all, scores for those who asked, keys and values into seats."""
        readings = [
            Reading(
                tokens=running[0].request.prompt,
                seats=seats.get(key, ()),
                logprobs=any(r.request.logprobs for r in running),
                top=max(r.request.top for r in running),
            )
            for key, running in readers.items()
        ]
        states, scores = read_prompts(self._model, readings, head_rows=self._head_rows)
        for (key, running), state, found in zip(readers.items(), states, scores, strict=True):
            self._prompts[key].state = state
            for one in running:
                top = tuple(likeliest[: one.request.top] for likeliest in found.top)
                one.scores = PromptScores(logprobs=found.logprobs, top=top)

    def _first_state(self, row: Row) -> torch.Tensor:
        state = self._prompts[row.owner.key].state
        assert state is not None
        return state

    def _forget(self, key: bytes) -> None:
        """Drop a prompt that no row lives of."""
        if key in self._prompts and not self._prompts[key].rows:
            del self._prompts[key]

    @torch.inference_mode()
    def _grow(self) -> None:
        """A token for every row; those that are over leave, the others get their next state."""
        if self._states is None:
            return
        tokens, logprobs = _choose(self._model, self._states, self._rows)
        living: dict[Seat, Row] = {}
        for row, token, logprob in zip(self._rows, tokens, logprobs, strict=True):
            if _over(row, token, logprob):
                self._retire(row)
            elif row.seat is not None:
                row.seat = self._store.widened(row.seat, row.length)
                living[row.seat] = row
        widths = self._store.widths
        self._rows = [living[seat] for width in widths for seat in width.seats]
        self._states = _decode(self._model, self._rows, widths) if self._rows else None

    def _retire(self, row: Row) -> None:
        if row.seat is not None:
            self._store.leave(row.seat)
            self._prompts[row.owner.key].rows.remove(row)
            self._forget(row.owner.key)


def _over(row: Row, token: int, logprob: float) -> bool:
    """Whether a row ends with this token; a stop condition that cannot be read fails its own request alone."""
    if row.owner.request.future.done():
        return True
    try:
        return row.grow(token, logprob)
    except Exception as error:  # noqa: BLE001 - handed on to whoever awaits
        row.owner.fail(error)
        return True


def _choose(model: Inference, states: torch.Tensor, rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    """Next token of each row and its log-probability at temperature 1."""
    params = [row.owner.request.params for row in rows]
    draws = torch.tensor([row.draw() for row in rows], dtype=torch.float64)
    tokens, logprobs = choose_tokens(model.logits(states), draws, params)
    return tokens.tolist(), logprobs.tolist()


def _decode(model: Inference, rows: Sequence[Row], widths: Sequence[Width]) -> torch.Tensor:
    """Hidden states (rows, width) of the newest token of each row; rows stand in the order of their seats."""
    tokens = torch.tensor([row.tokens[-1] for row in rows])
    places = torch.tensor([row.length - 1 for row in rows])
    return model.hidden(tokens, places, DecodePlan(widths, places.to(model.model.device)))
