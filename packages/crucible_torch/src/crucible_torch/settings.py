"""Settings of the local engine that no model or run decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crucible_ir.errors import ConfigError, nearest

__all__ = ["NARROWEST", "DTypeName", "DeviceName", "EngineSettings", "LogprobsAt"]

DeviceName = Literal["auto", "cpu", "cuda"]
DTypeName = Literal["auto", "float32", "bfloat16"]
LogprobsAt = Literal["weighted", "all"]
NARROWEST = 256
"""Hidden width below which a model is computed in float32 on a CPU without measuring."""
_LOGIT_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Where and how the engine computes.

    ``dtype`` "auto" is bfloat16 on a GPU that has it. On a CPU it is bfloat16 for models of width 256 and more
    where a measurement says that products gain by it, and float32 otherwise; what a run began with is kept in
    its checkpoint folder and used again. A spec's own dtype goes first.
    ``num_threads`` None leaves torch's own choice. ``micro_batch_tokens`` bounds the tokens of one packed
    forward pass (None: 4,096 on a CPU, 16,384 on a GPU); a longer example is a pass of its own.
    ``head_rows`` bounds the positions whose logits exist at once (None: what 128 MiB hold in float32 beside
    bfloat16, at most 1,024), ``max_sample_rows`` the sequences that are sampled at once (None: 64 on a CPU, 256 on a
    GPU), ``prefix_cache_mb`` (2²⁰ bytes) what is kept of prompts that were read, for each base model; 0 keeps
    nothing. ``logprobs_at`` "weighted" computes
    log-probabilities only where a loss weight is not zero and reports 0 elsewhere; "all" computes all.
    ``share_prefixes`` computes what several examples of a pass begin with once.
    ``local_files_only`` never asks the hub. ``peer_timeout_s``: where several processes train together, one that
    does not answer for so long is lost.

    Raises:
        ConfigError: a value outside its range.
    """

    device: DeviceName = "auto"
    dtype: DTypeName = "auto"
    num_threads: int | None = None
    micro_batch_tokens: int | None = None
    head_rows: int | None = None
    max_sample_rows: int | None = None
    prefix_cache_mb: int = 512
    logprobs_at: LogprobsAt = "weighted"
    share_prefixes: bool = True
    local_files_only: bool = False
    peer_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        _one_of("device", self.device, ("auto", "cpu", "cuda"))
        _one_of("dtype", self.dtype, ("auto", "float32", "bfloat16"))
        _one_of("logprobs_at", self.logprobs_at, ("weighted", "all"))
        _at_least_one("num_threads", self.num_threads)
        _at_least_one("micro_batch_tokens", self.micro_batch_tokens)
        _at_least_one("head_rows", self.head_rows)
        _at_least_one("max_sample_rows", self.max_sample_rows)
        if self.prefix_cache_mb < 0:
            raise ConfigError(
                what=f"prefix_cache_mb = {self.prefix_cache_mb}",
                where="local engine: prefix_cache_mb",
                remedy="give a number of 2^20 bytes, or 0 to keep nothing",
            )
        if self.peer_timeout_s <= 0:
            raise ConfigError(
                what=f"peer_timeout_s = {self.peer_timeout_s}",
                where="local engine: peer_timeout_s",
                remedy="give a number of seconds above 0",
            )

    def tokens_per_pass(self, device: str) -> int:
        """``micro_batch_tokens`` on that type of device."""
        return self.micro_batch_tokens or (16384 if device == "cuda" else 4096)

    def rows_of_logits(self, vocab_size: int) -> int:
        """``head_rows`` for a vocabulary of that size."""
        return self.head_rows or max(4, min(1024, _LOGIT_BYTES // (6 * vocab_size)) // 4 * 4)

    def rows_at_once(self, device: str) -> int:
        """``max_sample_rows`` on that type of device."""
        return self.max_sample_rows or (256 if device == "cuda" else 64)


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        close = nearest(str(value), known)
        raise ConfigError(
            what=f"{field} = {value!r} is none of {', '.join(known)}",
            where=f"local engine: {field}",
            remedy=f"did you mean {close!r}?" if close else f"give one of {', '.join(known)}",
        )


def _at_least_one(field: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigError(
            what=f"{field} = {value}",
            where=f"local engine: {field}",
            remedy="give 1 or more, or leave it out",
        )
