"""Weights for the world outside: a plain transformers folder, or an adapter folder that peft loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from crucible_ir.errors import ConfigError, ConflictError
from crucible_torch.adapter import Adapter, named_tensors
from crucible_torch.checkpoint import Checkpoint, written_folder
from crucible_torch.model import LoadedModel, no_progress_bars
from crucible_torch.saving import MODEL_FILE, adapter_from, tensors_of

__all__ = ["export_adapter", "export_merged", "load_weights"]

_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "chat_template*", "vocab.*", "merges.txt")
_TRANSPOSED_TYPES = ("gpt2", "openai-gpt")


def export_adapter(checkpoint: Checkpoint, destination: Path) -> Path:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        ConfigError: the checkpoint is of full fine-tuning.
        ConflictError: ``destination`` exists and is not empty.
        StorageError: it cannot be written.
    """
    from safetensors.torch import save_file

    lora = checkpoint.state["lora"]
    if lora is None:
        raise ConfigError(
            what="full fine-tuning has no adapter to export",
            where=str(checkpoint.folder),
            remedy="export with merge=True",
        )
    adapter = adapter_from(checkpoint, torch.device("cpu"))
    tensors = {f"base_model.model.{name}": t for name, t in named_tensors(adapter.pairs).items()}
    config = _peft_config(checkpoint, lora, sorted(adapter.pairs))
    with _fresh_folder(destination) as draft:
        save_file(tensors, draft / "adapter_model.safetensors", metadata={"format": "pt"})
        (draft / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return destination


def export_merged(model: LoadedModel, checkpoint: Checkpoint, destination: Path) -> Path:
    """Write ``model`` (the checkpoint's base, a copy of one's own) with the checkpoint's weights in it.

    An adapter on a tied output layer unties it: the embedding stays as it was.

    Raises:
        ConflictError: ``destination`` exists and is not empty.
        StorageError: it cannot be written.
    """
    load_weights(model, checkpoint)
    with _fresh_folder(destination) as draft:
        with no_progress_bars():
            model.module.save_pretrained(draft)
        for path in _files(model.files.folder, _TOKENIZER_FILES):
            shutil.copy(path, draft / path.name)
    return destination


@torch.no_grad()
def load_weights(model: LoadedModel, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into ``model``, a copy of one's own, merging an adapter into them."""
    if checkpoint.state["lora"] is None:
        named = dict(model.module.named_parameters())
        for name, value in tensors_of(checkpoint, MODEL_FILE).items():
            named[name].copy_(value)
        return
    _merge(model.module, adapter_from(checkpoint, model.device))


def _merge(module: Any, adapter: Adapter) -> None:
    for path, (a, b) in adapter.pairs.items():
        layer = module.get_submodule(path)
        delta = (b @ a) * adapter.scale
        if not isinstance(layer, torch.nn.Linear):
            delta = delta.t()
        if layer is module.get_output_embeddings() and module.config.tie_word_embeddings:
            module.config.tie_word_embeddings = False
            layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
        layer.weight.copy_((layer.weight.float() + delta).to(layer.weight.dtype))


def _peft_config(checkpoint: Checkpoint, lora: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    from crucible_torch.location import locate

    base = str(checkpoint.state["base_model"])
    model_type = locate(base, local_files_only=True).config["model_type"]
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": model_type in _TRANSPOSED_TYPES,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": lora["alpha"],
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": lora["rank"],
        "target_modules": paths,
        "task_type": "CAUSAL_LM",
    }


def _fresh_folder(destination: Path) -> Any:
    if destination.is_dir() and not any(destination.iterdir()):
        destination.rmdir()
    if destination.exists():
        raise ConflictError(
            what=f"{destination} exists already", where="export: destination", remedy="give a new folder"
        )
    return written_folder(destination)


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
