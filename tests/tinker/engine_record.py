"""An engine that keeps what it trains on, and decides by the prompt what is drawn.

Both sides of a comparison train on it through the server. Upstream's recipes set no seeds and ours do, so this engine
heeds nobody's: every adapter starts from one seed, and the n-th continuation of a prompt under given weights is drawn
from a seed that follows from the prompt and n.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from crucible_train.ports import Handle, TrainingSpec
from crucible_train.types import AdamParams, Datum, LoraConfig, ModelInput, SamplingParams

__all__ = ["Pass", "RecordedRun", "RecordingBackend", "Step", "tokens_of"]

ADAPTER_SEED = 4


@dataclass(slots=True, kw_only=True)
class Pass:
    """One pass over data with gradients; ``output`` is there once it is done."""

    loss_fn: str
    config: dict[str, float]
    data: list[Datum]
    output: Handle[Any]


@dataclass(slots=True, kw_only=True)
class Step:
    """What one optimiser step was made of."""

    passes: list[Pass]
    params: AdamParams
    output: Handle[Any]


@dataclass(slots=True, kw_only=True)
class RecordedRun:
    """The life of one training client."""

    base_model: str
    lora: LoraConfig | None
    steps: list[Step] = field(default_factory=list)
    sampled: int = 0
    """Continuations that were drawn."""


def tokens_of(input: ModelInput) -> tuple[int, ...]:
    """The token ids of a text."""
    return tuple(token for chunk in input.chunks for token in chunk.tokens)  # type: ignore[union-attr]


class RecordingBackend:
    """Passes everything on to ``backend``; ``runs`` are its training clients in the order of their creation."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.runs: list[RecordedRun] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def create_training_client(self, spec: TrainingSpec) -> Any:
        lora = None if spec.lora is None else replace(spec.lora, seed=ADAPTER_SEED)
        client = await self._backend.create_training_client(replace(spec, lora=lora, seed=ADAPTER_SEED))
        self.runs.append(RecordedRun(base_model=spec.base_model, lora=lora))
        return _Training(client, self.runs[-1])

    async def create_sampling_client(self, base_model: str, weights: Any = None) -> Any:
        return _Sampling(await self._backend.create_sampling_client(base_model, weights))


class _Training:
    def __init__(self, client: Any, run: RecordedRun) -> None:
        self._client = client
        self._run = run
        self._passes: list[Pass] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: Any = None
    ) -> Any:
        output = self._client.forward_backward(data, loss_fn, loss_config)
        self._passes.append(
            Pass(loss_fn=loss_fn, config=dict(loss_config or {}), data=list(data), output=output)
        )
        return output

    def optim_step(self, params: AdamParams) -> Any:
        output = self._client.optim_step(params)
        self._run.steps.append(Step(passes=self._passes, params=params, output=output))
        self._passes = []
        return output

    def sampling_client(self) -> Any:
        return _Opening(self._client.sampling_client())


class _Opening:
    """A handle of a sampling client."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __await__(self) -> Any:
        return _Sampling((yield from self._handle.__await__()))


class _Sampling:
    def __init__(self, client: Any) -> None:
        self._client = client
        self._asked: Counter[tuple[int, ...]] = Counter()
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def sample(self, prompt: ModelInput, params: SamplingParams, **more: Any) -> Any:
        tokens = tokens_of(prompt)
        with self._lock:
            number = self._asked[tokens]
            self._asked[tokens] += 1
        words = np.asarray([number, *tokens], dtype=np.int64).tobytes()
        seed = int.from_bytes(hashlib.sha256(words).digest()[:7])
        return self._client.sample(prompt, replace(params, seed=seed), **more)
