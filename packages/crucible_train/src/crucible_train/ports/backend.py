"""The port of an engine that trains and samples models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from crucible_ir.refs import CheckpointRef
from crucible_train.ports.sampling import SamplingClient
from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.ports.training import TrainingClient
from crucible_train.types import LoraConfig

__all__ = ["BackendCapabilities", "TrainingBackend", "TrainingSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendCapabilities:
    """What an engine can promise; contract suites and plans read it before anything is spent.

    ``digests_content`` says that ``TrainingBackend.model_digest`` is of weights, not of a name: what was computed with
    them may be kept under it.
    """

    name: str
    losses: frozenset[str]
    custom_loss: bool = False
    full_finetuning: bool = False
    sampling: bool = False
    prompt_logprobs: bool = False
    topk_prompt_logprobs: bool = False
    images: bool = False
    deterministic: bool = False
    exact_resume: bool = False
    digests_content: bool = False
    max_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """What to train: a base model (folder or hub id), an adapter or all weights, and where state is kept.

    ``lora`` None means full fine-tuning. ``seed`` decides adapter initialisation and dropout.
    """

    base_model: str
    lora: LoraConfig | None
    seed: int
    checkpoint_dir: Path
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


@runtime_checkable
class TrainingBackend(Protocol):
    """An engine over which many clients share one loaded base model.

    One that trains in several processes, which torchrun has started, has two members more: in all processes but the
    first ``follows`` is true, and ``follow()`` takes part in the work of the first until that one closes its engine.
    """

    def capabilities(self) -> BackendCapabilities:
        """What this engine can promise; cheap, loads nothing heavy."""
        ...

    def check(self, spec: TrainingSpec) -> None:
        """Look whether ``spec`` can be served, without loading weights.

        Raises:
            ConfigError: something asked for is not supported.
            NotFoundError: there is no such model.
        """
        ...

    def model_digest(self, base_model: str) -> str:
        """Digest of the base model's content (weights and config), not of its name."""
        ...

    async def load_tokenizer(self, base_model: str) -> Tokenizer:
        """The base model's own tokenizer."""
        ...

    async def create_training_client(self, spec: TrainingSpec) -> TrainingClient:
        """A fresh trainable client; the base model is loaded once and shared."""
        ...

    async def create_sampling_client(
        self, base_model: str, weights: CheckpointRef | None = None
    ) -> SamplingClient:
        """A sampler over the base model, or over weights that ``save_weights_for_sampler`` wrote."""
        ...

    def list_checkpoints(self, checkpoint_dir: Path) -> list[CheckpointRef]:
        """Complete checkpoints under ``checkpoint_dir``, oldest first."""
        ...

    def export(self, weights: CheckpointRef, destination: Path, *, merge: bool) -> Path:
        """Write weights so that plain ``transformers`` (merged) or ``peft`` (adapter) loads them."""
        ...

    async def close(self) -> None:
        """Free every client and the base models; closing twice is harmless."""
        ...
