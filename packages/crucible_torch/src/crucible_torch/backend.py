"""The local engine as a training backend: one loaded base, many clients, one thread."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crucible_ir.errors import ConflictError
from crucible_ir.refs import CheckpointRef
from crucible_torch.checkpoint import list_checkpoints, read_checkpoint
from crucible_torch.distributed.world import World
from crucible_torch.location import ModelFiles, locate, locate_weights, model_digest
from crucible_torch.losses import LOSSES
from crucible_torch.settings import NARROWEST, DeviceName, DTypeName, EngineSettings, LogprobsAt
from crucible_torch.support import check_support
from crucible_torch.worker import Worker
from crucible_train.ports import (
    BackendCapabilities,
    SamplingClient,
    Tokenizer,
    TrainingClient,
    TrainingSpec,
)

if TYPE_CHECKING:
    import torch

    from crucible_torch.distributed.session import Session
    from crucible_torch.model import LoadedModel
    from crucible_torch.trainer import Trainer

__all__ = ["LocalBackend"]

_GPU_DEVICE = Path("/dev/nvidiactl")


class LocalBackend:
    """Trains and samples ``transformers`` causal language models on this machine.

    Options are those of ``EngineSettings``. Making a backend loads nothing; torch comes with the first
    client. A base model is loaded once per dtype and shared by every LoRA client and base sampler; a client
    of full fine-tuning has weights of its own. Code from a model's repository is never run.
    """

    def __init__(
        self,
        *,
        device: DeviceName = "auto",
        dtype: DTypeName = "auto",
        num_threads: int | None = None,
        micro_batch_tokens: int | None = None,
        head_rows: int | None = None,
        max_sample_rows: int | None = None,
        prefix_cache_mb: int = 512,
        logprobs_at: LogprobsAt = "weighted",
        share_prefixes: bool = True,
        local_files_only: bool = False,
        peer_timeout_s: float = 600.0,
    ) -> None:
        self._settings = EngineSettings(
            device=device,
            dtype=dtype,
            num_threads=num_threads,
            micro_batch_tokens=micro_batch_tokens,
            head_rows=head_rows,
            max_sample_rows=max_sample_rows,
            prefix_cache_mb=prefix_cache_mb,
            logprobs_at=logprobs_at,
            share_prefixes=share_prefixes,
            local_files_only=local_files_only,
            peer_timeout_s=peer_timeout_s,
        )
        self._world = World.from_environ(os.environ)
        self._session: Session | None = None
        self._worker = Worker()
        self._bases: dict[tuple[str, str], LoadedModel] = {}
        self._digests: dict[tuple[tuple[str, int, int], ...], str] = {}
        self._tokenizers: dict[str, Tokenizer] = {}

    def capabilities(self) -> BackendCapabilities:
        """What this engine can promise; ``deterministic`` and ``exact_resume`` hold on a CPU in float32."""
        exact = not _may_use_gpu(self._settings.device)
        return BackendCapabilities(
            name="local",
            losses=frozenset(LOSSES),
            custom_loss=True,
            full_finetuning=True,
            sampling=True,
            prompt_logprobs=True,
            topk_prompt_logprobs=True,
            images=False,
            deterministic=exact,
            exact_resume=exact,
            digests_content=True,
        )

    def check(self, spec: TrainingSpec) -> None:
        """Look whether ``spec`` can be served, from the model's config alone.

        Raises:
            ConfigError: the model or the adapter is not supported; every obstacle is named.
            NotFoundError: there is no such model, or it has no safetensors weights.
        """
        files = self._locate(spec.base_model)
        check_support(files, spec.lora)
        if not files.from_hub:
            locate_weights(files)

    def model_digest(self, base_model: str) -> str:
        """Digest of config and weights; files that have not changed since are not read again."""
        files = self._locate(base_model)
        weights = locate_weights(files, local_files_only=self._settings.local_files_only)
        stats = [(str(path), path.stat()) for path in (files.folder / "config.json", *weights)]
        key = tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats)
        if key not in self._digests:
            self._digests[key] = model_digest(files, weights)
        return self._digests[key]

    async def load_tokenizer(self, base_model: str) -> Tokenizer:
        """The base model's own tokenizer."""
        return await self._worker.submit(lambda: self._tokenizer(base_model))

    async def create_training_client(self, spec: TrainingSpec) -> TrainingClient:
        """A fresh trainable client over the shared base, or over weights of its own if ``lora`` is None.

        Raises:
            ConfigError, NotFoundError: as ``check``.
        """
        self.check(spec)
        return await self._worker.submit(lambda: self._training_client(spec))

    async def create_sampling_client(
        self, base_model: str, weights: CheckpointRef | None = None
    ) -> SamplingClient:
        """A sampler over the base model, or over a checkpoint's weights on it.

        Raises:
            NotFoundError: no such model or checkpoint.
            IntegrityError: the checkpoint's bytes do not match its digests.
            ConfigError: the checkpoint belongs to another base model.
        """
        return await self._worker.submit(lambda: self._sampling_client(base_model, weights))

    def list_checkpoints(self, checkpoint_dir: Path) -> list[CheckpointRef]:
        """Complete checkpoints under ``checkpoint_dir``, oldest first (by step)."""
        return list_checkpoints(checkpoint_dir)

    def export(self, weights: CheckpointRef, destination: Path, *, merge: bool) -> Path:
        """Write weights so that plain ``transformers`` (merged) or ``peft`` (adapter) loads them.

        Raises:
            ConflictError: ``destination`` exists and is not empty.
            ConfigError: an adapter is asked for of full fine-tuning, or the base model has changed.
        """
        return self._worker.submit(lambda: self._export(weights, destination, merge)).result()

    @property
    def follows(self) -> bool:
        """Whether this is one of several processes, and another one has the run."""
        return not self._world.leads

    def follow(self) -> None:
        """Take part in the training of the process that leads, until that one closes its engine.

        Raises:
            ConflictError: this process does not follow another.
            ProcessLost: the leader, or another process, is gone.
        """
        if not self.follows:
            raise ConflictError(
                what=f"process {self._world.rank} of {self._world.size} has nobody to follow",
                where="LocalBackend.follow",
                remedy="start several processes with torchrun, and let all but the first follow",
            )
        self._joined().follow()

    async def close(self) -> None:
        """Finish submitted work, then free clients and base models; closing twice is harmless."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._worker.close()
        self._bases.clear()
        if not self._world.alone and self._world.leads:
            self._joined().close()  # the others wait for word, even where there was nothing to do

    def _locate(self, base_model: str) -> ModelFiles:
        return locate(base_model, local_files_only=self._settings.local_files_only)

    def _tokenizer(self, base_model: str) -> Tokenizer:
        from crucible_torch.tokenizer import load_tokenizer

        if base_model not in self._tokenizers:
            self._tokenizers[base_model] = load_tokenizer(
                base_model, local_files_only=self._settings.local_files_only
            )
        return self._tokenizers[base_model]

    def _device(self) -> torch.device:
        import torch

        from crucible_torch.model import choose_device

        if self._settings.num_threads is not None:
            torch.set_num_threads(self._settings.num_threads)
        device = choose_device(self._settings.device)
        if device.type == "cuda" and not self._world.alone:
            device = torch.device("cuda", self._world.local_rank)
            torch.cuda.set_device(device)
        return device

    def _wish(self, base_model: str, dtype: DTypeName, run: Path | None = None) -> DTypeName:
        """The first dtype that is named: by the caller, these settings, the folder of the run, a measurement.

        Without a run, a base that is loaded already is taken as it is.
        """
        named = self._settings.dtype if dtype == "auto" else dtype
        files = self._locate(base_model)
        width = files.config.get("hidden_size") or files.config.get("n_embd") or 0
        if named != "auto" or self._device().type != "cpu" or width < NARROWEST:
            return named
        from crucible_torch.precision import gains_from_bfloat16, remembered

        def choose() -> Literal["float32", "bfloat16"]:
            return "bfloat16" if gains_from_bfloat16(width) else "float32"

        if run is not None:
            return remembered(run, choose)
        digest = self.model_digest(base_model)
        loaded = [name for known, name in self._bases if known == digest]
        if not loaded:
            return choose()
        return "bfloat16" if loaded[0] == "torch.bfloat16" else "float32"

    def _load(self, base_model: str, dtype: str, *, shared: bool, portable: bool = False) -> LoadedModel:
        if not shared:
            return self._read(base_model, dtype, shared=False, portable=portable)
        from crucible_torch.model import choose_dtype

        key = (self.model_digest(base_model), str(choose_dtype(self._device(), dtype)))
        if key not in self._bases:
            self._bases[key] = self._read(base_model, dtype, shared=True)
        return self._bases[key]

    def _read(self, base_model: str, dtype: str, *, shared: bool, portable: bool = False) -> LoadedModel:
        from crucible_torch.model import choose_dtype, load_model

        files = self._locate(base_model)
        check_support(files, None)
        device = self._device()
        chosen = choose_dtype(device, dtype)
        digest = self.model_digest(base_model)
        return load_model(files, digest=digest, device=device, dtype=chosen, shared=shared, portable=portable)

    def _joined(self) -> Session:
        """This process among the others, which it joins when it is first needed."""
        from crucible_torch.distributed.session import Session

        if self._session is None:
            self._session = Session(
                self._world, self._device(), self._settings, read=self._read, load=self._load
            )
        return self._session

    def _trainer(self, spec: TrainingSpec) -> Trainer:
        dtype = self._wish(spec.base_model, spec.dtype, spec.checkpoint_dir)
        if not self._world.alone:
            return self._joined().lead(replace(spec, dtype=dtype))
        from crucible_torch.adapter import fresh_adapter
        from crucible_torch.trainer import Trainer

        model = self._load(spec.base_model, dtype, shared=spec.lora is not None)
        adapter = None
        if spec.lora is not None:
            seed = spec.seed if spec.lora.seed is None else spec.lora.seed
            adapter = fresh_adapter(model.shapes(spec.lora), spec.lora, seed=seed, device=model.device)
        return Trainer(model, adapter, self._settings)

    def _training_client(self, spec: TrainingSpec) -> TrainingClient:
        from crucible_torch.training_client import TorchTrainingClient

        return TorchTrainingClient(
            self._trainer(spec),
            spec,
            worker=self._worker,
            settings=self._settings,
            tokenizer=lambda: self._tokenizer(spec.base_model),
        )

    def _sampling_client(self, base_model: str, weights: CheckpointRef | None) -> SamplingClient:
        from crucible_torch.sampling_client import TorchSamplingClient

        adapter = None
        if weights is None:
            model = self._load(base_model, self._wish(base_model, "auto"), shared=True)
        else:
            from crucible_torch.export import load_weights
            from crucible_torch.saving import adapter_from, require_base

            checkpoint = read_checkpoint(Path(weights.path), digest=weights.digest)
            require_base(checkpoint, self.model_digest(base_model))
            shared = checkpoint.state["lora"] is not None
            model = self._load(base_model, checkpoint.state["dtype"], shared=shared)
            if shared:
                adapter = adapter_from(checkpoint, model.device)
            else:
                load_weights(model, checkpoint)
        return TorchSamplingClient(
            model,
            adapter,
            worker=self._worker,
            settings=self._settings,
            tokenizer=lambda: self._tokenizer(base_model),
        )

    def _export(self, weights: CheckpointRef, destination: Path, merge: bool) -> Path:
        from crucible_torch.export import export_adapter, export_merged
        from crucible_torch.saving import require_base

        checkpoint = read_checkpoint(Path(weights.path), digest=weights.digest)
        base = str(checkpoint.state["base_model"])
        require_base(checkpoint, self.model_digest(base))
        if not merge:
            return export_adapter(checkpoint, destination)
        model = self._load(base, checkpoint.state["dtype"], shared=False, portable=True)
        return export_merged(model, checkpoint, destination)


def _may_use_gpu(device: DeviceName) -> bool:
    """Whether work may land on a GPU, told without importing torch."""
    return device == "cuda" or (device == "auto" and _GPU_DEVICE.exists())
