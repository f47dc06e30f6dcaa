"""Reads a plain decoder from a model's folder."""

from __future__ import annotations

import json

import torch

from crucible_torch.decoder import Decoder
from crucible_torch.decoder_shape import decoder_shape
from crucible_torch.location import ModelFiles, locate_weights

__all__ = ["read_decoder"]

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def read_decoder(files: ModelFiles, dtype: torch.dtype, device: torch.device) -> Decoder | None:
    """The model in ``files``; None where transformers has to read it, or to say what is wrong with it.

    It is read here only if the config describes a plain decoder and the files hold exactly its tensors.
    """
    from safetensors import SafetensorError

    shape = decoder_shape(files.config)
    if shape is None:
        return None
    with torch.device("meta"):
        module = Decoder(shape)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    try:
        found = _tensors(files, dtype, device)
        module.config.eos_token_id = _eos(files, module.config.eos_token_id)
    except (OSError, ValueError, SafetensorError):
        return None
    if shape.tied and not _tie(found):
        return None
    if {name: tuple(tensor.shape) for name, tensor in found.items()} != wanted:
        return None
    module.load_state_dict(found, assign=True)
    if shape.tied:  # two entries of one tensor became two parameters
        module.lm_head.weight = module.model.embed_tokens.weight
    module.model.inv_freq = module.model.inv_freq.to(device)
    return module


def _tensors(files: ModelFiles, dtype: torch.dtype, device: torch.device) -> dict[str, torch.Tensor]:
    """Copies of all tensors by name; a copy is aligned and nobody else's, a mapped file's view is neither."""
    from safetensors import safe_open

    found: dict[str, torch.Tensor] = {}
    for path in locate_weights(files, local_files_only=True):
        with safe_open(path, framework="pt") as opened:
            for name in sorted(opened.keys()):
                if not name.endswith(".rotary_emb.inv_freq"):
                    found[name] = opened.get_tensor(name).to(device=device, dtype=dtype, copy=True)
    return found


def _tie(found: dict[str, torch.Tensor]) -> bool:
    """Let the output layer be the embedding; False if the files hold another one."""
    if _EMBEDDING not in found:
        return False
    if _HEAD in found and not torch.equal(found[_HEAD], found[_EMBEDDING]):
        return False
    found[_HEAD] = found[_EMBEDDING]
    return True


def _eos(files: ModelFiles, of_model: int | list[int] | None) -> int | list[int] | None:
    """The ids at which the model's generation settings end, else those of its config."""
    path = files.folder / "generation_config.json"
    if not path.is_file():
        return of_model
    settings = json.loads(path.read_text(encoding="utf-8"))
    ids = settings.get("eos_token_id")
    return of_model if ids is None else ids
