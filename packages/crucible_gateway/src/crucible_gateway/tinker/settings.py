"""Settings of the Tinker-compatible server: what it serves, where it keeps state, and its limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Limits", "ServedModel", "TinkerSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A base model under the name that clients ask for.

    ``source`` is what the backend loads (folder or hub id), ``tokenizer_id`` what clients load their tokenizer from,
    ``max_length`` the longest prompt plus continuation, if known.
    """

    name: str
    source: str
    tokenizer_id: str
    max_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds memory, disk and waiting; what goes beyond is answered with 413 or 429, never with a crash."""

    body_bytes: int = 64 * 1024 * 1024
    """Largest body of one request."""
    waiting_requests: int = 256
    """Training requests of one model that wait for their turn."""
    waiting_bytes: int = 1024 * 1024 * 1024
    """Bytes of all training requests that wait."""
    waiting_samples: int = 4096
    """Sampling requests that are not done."""
    in_flight: int = 4
    """Training requests of one model that the engine has at once: two steps, so that it never waits for the next."""
    snapshot_steps: int = 20
    """Optimiser steps after which a model's state is written, so that a restart repeats no more than these."""
    snapshot_rest: float = 20.0
    """How many times as long as writing the state took the next time waits, where steps are fast."""
    kept_results: int = 1024
    """Results that are kept after they were read, for clients that ask again."""
    kept_bytes: int = 64 * 1024 * 1024
    """Bytes of such results."""
    kept_samplers: int = 16
    """Unnamed sampler weights per model that are kept on disk."""
    open_samplers: int = 8
    """Samplers that are held in memory at once."""
    max_tokens: int = 1024 * 1024
    """Tokens of one continuation."""
    num_samples: int = 1024
    """Continuations of one sampling request."""
    poll_s: float = 30.0
    """How long a question for a result is held open; the SDK hangs up after 45 s."""
    session_s: float = 3600.0
    """A session that was silent for so long frees its memory: models are kept on disk and come back on use, samples
    that nobody read are made anew if they are asked for."""
    gone_s: float = 7 * 24 * 3600.0
    """A session that was silent for so long is ended as if its client had done so: its checkpoints stay. An ended one
    is forgotten after as long again, once it has no checkpoints."""
    default_max_tokens: int = 4096
    """Tokens of a continuation where neither the client nor the model gives a bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinkerSettings:
    """Everything that a server is told when it starts."""

    models: tuple[ServedModel, ...]
    state: Path
    api_key: str | None = None
    owner: str = "local"
    hosts: tuple[str, ...] = ()
    """Names that a request may address the server by; empty for any."""
    limits: Limits = field(default_factory=Limits)

    def model(self, name: str) -> ServedModel | None:
        """The served model of that name; a context-length suffix ``:…`` of the client's is looked at last."""
        for model in self.models:
            if name == model.name:
                return model
        head = name.rpartition(":")[0]
        return self.model(head) if head else None
