"""What a client's checkpoint holds, and how it goes back into a trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from crucible_ir.errors import ConfigError
from crucible_ir.refs import CheckpointRef
from crucible_torch.adapter import Adapter, pairs_of
from crucible_torch.checkpoint import Checkpoint, Writer, read_checkpoint, write_checkpoint
from crucible_torch.optimizer import MOMENTS
from crucible_torch.trainer import Saved, Trainer
from crucible_train.ports import TrainingSpec

__all__ = [
    "adapter_from",
    "describe",
    "load_trainer",
    "require_base",
    "save_trainer",
    "saved_in",
    "tensors_of",
]

ADAPTER_FILE = "adapter.safetensors"
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"


def describe(trainer: Trainer, spec: TrainingSpec, rng: Mapping[str, int]) -> dict[str, Any]:
    """``state.json``: what the weights belong to, steps applied, random state; nothing of time or machine."""
    return {
        "base_digest": trainer.model.digest,
        "base_model": spec.base_model,
        "dtype": str(trainer.model.dtype).removeprefix("torch."),
        "lora": None if spec.lora is None else asdict(spec.lora),
        "rng": dict(rng),
        "seed": spec.seed,
        "steps": trainer.optimizer.steps,
    }


def save_trainer(
    trainer: Trainer, spec: TrainingSpec, name: str, *, rng: Mapping[str, int], with_optimizer: bool
) -> CheckpointRef:
    """Write weights (and optimiser state) of a trainer under the spec's folder.

    Raises:
        StorageError, ConflictError, ConfigError: as ``write_checkpoint``.
    """
    weights = ADAPTER_FILE if spec.lora else MODEL_FILE
    writers: dict[str, Writer] = {weights: _writer(trainer.values)}
    if with_optimizer:
        writers[OPTIMIZER_FILE] = _writer(trainer.moments)
    return write_checkpoint(
        spec.checkpoint_dir,
        name,
        content="state" if with_optimizer else "sampler",
        writers=writers,
        state=describe(trainer, spec, rng),
    )


def load_trainer(trainer: Trainer, ref: CheckpointRef, *, with_optimizer: bool) -> dict[str, int]:
    """Put a saved state in place of the present one, which stays whole if anything is wrong.

    Returns the saved random state.

    Raises:
        NotFoundError, IntegrityError: as ``read_checkpoint``.
        ConfigError: the checkpoint is of another base model or shape, or holds no optimiser state.
    """
    checkpoint = read_checkpoint(Path(ref.path), digest=ref.digest)
    require_base(checkpoint, trainer.model.digest)
    values = tensors_of(checkpoint, ADAPTER_FILE if trainer.adapter else MODEL_FILE)
    wanted = {name: tuple(leaf.shape) for name, leaf in trainer.weights.leaves.items()}
    _require_shapes(values, wanted, checkpoint)
    moments = None
    if with_optimizer:
        moments = tensors_of(checkpoint, OPTIMIZER_FILE)
        states = {f"{name}.{moment}": shape for name, shape in wanted.items() for moment in MOMENTS}
        _require_shapes(moments, states, checkpoint)
    steps = int(checkpoint.state["steps"]) if with_optimizer else 0
    trainer.restore(Saved(folder=checkpoint.folder, values=values, moments=moments, steps=steps))
    return {key: int(value) for key, value in checkpoint.state["rng"].items()} if with_optimizer else {}


def saved_in(folder: Path, *, moments: bool, steps: int) -> Saved:
    """What a folder holds that another process has verified. Of full fine-tuning it names the folder alone."""
    from safetensors.torch import load_file

    if not (folder / ADAPTER_FILE).is_file():
        return Saved(folder=folder, values={}, moments={} if moments else None, steps=steps)
    return Saved(
        folder=folder,
        values=load_file(folder / ADAPTER_FILE),
        moments=load_file(folder / OPTIMIZER_FILE) if moments else None,
        steps=steps,
    )


def adapter_from(checkpoint: Checkpoint, device: torch.device) -> Adapter:
    """The adapter that a checkpoint holds, on ``device``."""
    named = {key: t.to(device) for key, t in tensors_of(checkpoint, ADAPTER_FILE).items()}
    suffix = ".lora_A.weight"
    paths = [key.removesuffix(suffix) for key in named if key.endswith(suffix)]
    lora = checkpoint.state["lora"]
    return Adapter(pairs=pairs_of(named, paths), scale=lora["alpha"] / lora["rank"])


def require_base(checkpoint: Checkpoint, digest: str) -> None:
    """Refuse weights that belong to another base model.

    Raises:
        ConfigError: the digests differ.
    """
    saved = checkpoint.state["base_digest"]
    if saved != digest:
        raise ConfigError(
            what=f"the checkpoint belongs to {checkpoint.state['base_model']} ({saved[:19]}…), "
            f"not to this base model ({digest[:19]}…)",
            where=str(checkpoint.folder),
            remedy="use the base model it was trained on",
        )


def tensors_of(checkpoint: Checkpoint, filename: str) -> dict[str, torch.Tensor]:
    """Tensors of one file of a verified checkpoint.

    Raises:
        ConfigError: the checkpoint has no such file.
    """
    from safetensors.torch import load_file

    if filename not in checkpoint.files:
        raise ConfigError(
            what=f"the checkpoint holds no {filename}; it holds {', '.join(sorted(checkpoint.files))}",
            where=str(checkpoint.folder),
            remedy=(
                "load a state instead of sampler weights, or pass with_optimizer=False"
                if filename == OPTIMIZER_FILE
                else "load it with the same kind of training (LoRA or full) that wrote it"
            ),
        )
    loaded: dict[str, torch.Tensor] = load_file(checkpoint.folder / filename)
    return loaded


def _require_shapes(
    found: Mapping[str, torch.Tensor], here: Mapping[str, tuple[int, ...]], checkpoint: Checkpoint
) -> None:
    there = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if here != there:
        name = sorted({*here.items()} ^ {*there.items()})[0][0]
        raise ConfigError(
            what=f"the checkpoint does not fit: {name} is {there.get(name)} there and {here.get(name)} here",
            where=str(checkpoint.folder),
            remedy="train with the same rank and layers as the run that wrote it",
        )


def _writer(tensors: Callable[[], Mapping[str, torch.Tensor]]) -> Writer:
    def write(path: Path) -> None:
        from safetensors.torch import save_file

        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors().items()}
        save_file(plain, path, metadata={"format": "pt"})

    return write
