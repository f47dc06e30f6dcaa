"""JSON bodies of the Tinker wire, as far as the server reads them; what it does not know in them is left aside."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field

from crucible_ir import Contract

__all__ = [
    "AdamBody",
    "CancelFuture",
    "CopyWeights",
    "CreateModel",
    "CreateSamplingSession",
    "CreateSession",
    "FinishSession",
    "LoadWeights",
    "LoraBody",
    "ModelBody",
    "OptimStep",
    "OptimizerBody",
    "PollTarget",
    "RetrieveFuture",
    "RetrieveFutures",
    "Sample",
    "SamplingBody",
    "SaveSamplerWeights",
    "SaveWeights",
    "SearchSessions",
    "SessionBody",
]

Metadata = dict[str, Any] | None
_MOST = 2**31 - 1
_MOST_SAMPLES = 2**63 - 1


class CreateSession(Contract):
    """Begin a session."""

    tags: tuple[str, ...] = ()
    user_metadata: Metadata = None
    sdk_version: str = ""
    project_id: str | None = None
    display_name: str | None = None


class SessionBody(Contract):
    """A heartbeat."""

    session_id: str


class FinishReason(Contract):
    """How a session ended."""

    type: str = "success"


class FinishSession(Contract):
    """End a session."""

    reason: FinishReason = FinishReason()
    detail: str | None = None


class LoraBody(Contract):
    """The adapter of a new model."""

    rank: int
    seed: int | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class OptimizerBody(Contract):
    """Which optimiser a model has for life."""

    type: str = "adamw"


class CreateModel(Contract):
    """A new model in a session."""

    session_id: str
    model_seq_id: int = Field(ge=0, le=_MOST)
    base_model: str
    user_metadata: Metadata = None
    lora_config: LoraBody | None = None
    optimizer_config: OptimizerBody = OptimizerBody()


class ModelBody(Contract):
    """A question about a model."""

    model_id: str


class AdamBody(Contract):
    """Settings of one optimiser step; defaults as in the SDK."""

    type: str = "adamw"
    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


class OptimStep(Contract):
    """One optimiser step."""

    model_id: str
    seq_id: int | None = None
    params: AdamBody = Field(validation_alias=AliasChoices("adam_params", "optimizer_params", "optim_params"))


class SaveWeights(Contract):
    """Save the whole training state, or export weights, under a name."""

    model_id: str
    seq_id: int | None = None
    path: str | None = None
    ttl_seconds: int | None = None
    overwrite: bool = False
    user_metadata: Metadata = None
    age_encryption_recipients: tuple[str, ...] | None = None


class SaveSamplerWeights(Contract):
    """Save weights for sampling, under a name or for one sampling session."""

    model_id: str
    seq_id: int | None = None
    path: str | None = None
    sampling_session_seq_id: int | None = Field(default=None, ge=0, le=_MOST)
    kind: Literal["snapshot", "inflight"] = "snapshot"
    ttl_seconds: int | None = None
    user_metadata: Metadata = None


class LoadWeights(Contract):
    """Load saved state into a model, or begin a model with it (``session_id`` and ``model_seq_id``)."""

    model_id: str | None = None
    seq_id: int | None = None
    session_id: str | None = None
    model_seq_id: int | None = Field(default=None, ge=0, le=_MOST)
    base_model: str | None = None
    user_metadata: Metadata = None
    path: str
    optimizer: bool = False
    optimizer_config: OptimizerBody | None = None


class CreateSamplingSession(Contract):
    """A sampler over a base model or saved weights."""

    session_id: str
    sampling_session_seq_id: int = Field(ge=0, le=_MOST)
    base_model: str | None = None
    model_path: str | None = None


class SamplingBody(Contract):
    """How to sample."""

    max_tokens: int | None = None
    seed: int | None = None
    stop: str | tuple[int, ...] | tuple[str, ...] | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0


class Sample(Contract):
    """A prompt to continue or to score; ``prompt`` is read by the codec."""

    prompt: dict[str, Any]
    sampling_params: SamplingBody = SamplingBody()
    num_samples: int = Field(default=1, ge=1)
    sampling_session_id: str | None = None
    base_model: str | None = None
    model_path: str | None = None
    seq_id: int | None = Field(default=None, ge=0, le=_MOST_SAMPLES)
    prompt_logprobs: bool | None = None
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: Any = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: int | None = None
    record_stability_info: bool | None = None


class RetrieveFuture(Contract):
    """Ask for a result."""

    request_id: str


class PollTarget(Contract):
    """What a poller of many results watches."""

    sampling_session_id: str
    cloned_sampler_id: int = 0


class RetrieveFutures(Contract):
    """Ask what has come to an end since ``prev_cursor``."""

    target: PollTarget
    prev_cursor: int = 0
    timeout: float | None = None
    retrieved_request_ids: tuple[str, ...] = ()


class CancelFuture(Contract):
    """Give up on a result."""

    request_id: str | None = None
    request_ids: tuple[str, ...] = ()


class CopyWeights(Contract):
    """Copy a checkpoint into another run or session."""

    source_path: str
    session_id: str | None = None
    model_seq_id: int | None = Field(default=None, ge=0, le=_MOST)
    destination_project_id: str | None = None
    ttl_seconds: int | None = None


class SearchSessions(Contract):
    """Look for sessions."""

    session_id: str | None = None
    display_name: str | None = None
    user_metadata: dict[str, str] = Field(default_factory=dict)
    limit: int = Field(default=50, ge=1, le=200)
    cursor: dict[str, str] | None = None
