"""Where a base model's files are: a folder, or the hub's cache; nothing here imports torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crucible_ir.canonical import digest_of
from crucible_ir.errors import ConfigError, NotFoundError

__all__ = [
    "ModelFiles",
    "is_hub_id",
    "locate",
    "locate_weights",
    "model_digest",
    "no_such_folder",
    "sha256_of",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A base model's folder and its parsed ``config.json``."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    from_hub: bool

    @property
    def max_positions(self) -> int | None:
        """Greatest number of tokens the model has positions for, if its config says."""
        for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
            if isinstance(self.config.get(key), int):
                return int(self.config[key])
        return None


def locate(base_model: str, *, local_files_only: bool = False) -> ModelFiles:
    """Find a model by folder or hub id and read its config; weights stay where they are.

    Raises:
        NotFoundError: no such folder, no ``config.json`` in it, or the hub does not give it.
        ConfigError: ``config.json`` is not JSON.
    """
    folder = Path(base_model).expanduser()
    if folder.is_dir():
        config = folder / "config.json"
        if not config.is_file():
            raise NotFoundError(
                what=f"the folder {base_model} holds no config.json",
                where="base_model",
                remedy="name a folder that transformers' save_pretrained wrote",
            )
        return ModelFiles(name=base_model, folder=folder, config=_parsed(config), from_hub=False)
    if not is_hub_id(base_model):
        raise no_such_folder(base_model)
    config = _from_hub(base_model, "config.json", local_files_only)
    return ModelFiles(name=base_model, folder=config.parent, config=_parsed(config), from_hub=True)


def is_hub_id(name: str) -> bool:
    """Whether ``name`` can be an id of the hub rather than a path."""
    return not name.startswith((".", "/", "~")) and _HUB_ID.fullmatch(name) is not None


def no_such_folder(name: str) -> NotFoundError:
    """The error for a path that leads nowhere."""
    return NotFoundError(
        what=f"there is no folder {name}",
        where="base_model",
        remedy="give the path of a model folder, or a hub id such as Qwen/Qwen3-0.6B",
    )


def locate_weights(files: ModelFiles, *, local_files_only: bool = False) -> list[Path]:
    """The safetensors files of a model, fetched first if it comes from the hub.

    Raises:
        NotFoundError: there are none, or one that the index names is missing.
    """
    if files.from_hub:
        _fetch_weights(files.name, local_files_only)
    index = files.folder / _INDEX
    if index.is_file():
        named = sorted({str(name) for name in _parsed(index).get("weight_map", {}).values()})
        weights = [files.folder / name for name in named]
    else:
        weights = [files.folder / _SINGLE]
    missing = [path.name for path in weights if not path.is_file()]
    if missing or not weights:
        raise NotFoundError(
            what=f"{files.name} has no {', '.join(missing) or _SINGLE}",
            where="base_model",
            remedy="give a model in safetensors format; pickled weights are never loaded",
        )
    return weights


def model_digest(files: ModelFiles, weights: list[Path]) -> str:
    """Digest of config and weights: of their bytes, not of where they lie."""
    parts = {path.name: sha256_of(path) for path in weights}
    return digest_of({"config": dict(files.config), "weights": parts})


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _parsed(path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            what=f"{path} is not JSON ({error})", where="base_model", remedy="restore the file"
        ) from error
    if not isinstance(parsed, dict):
        raise ConfigError(what=f"{path} is not a JSON object", where="base_model", remedy="restore the file")
    return parsed


def _from_hub(name: str, filename: str, local_files_only: bool) -> Path:
    from transformers.utils import cached_file

    try:
        found = cached_file(name, filename, local_files_only=local_files_only)
    except (OSError, ValueError) as error:
        if local_files_only:
            raise NotFoundError(
                what=f"no model {name!r}, neither as a folder nor in the Hugging Face cache",
                where="base_model",
                remedy="check the name; to download it, choose a manifest that may, such as dev",
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NotFoundError(
            what=f"no model {name!r}, neither as a folder nor from the hub ({reason})",
            where="base_model",
            remedy="check the name; download it first if this machine is offline; set HF_TOKEN if it is gated",
        ) from error
    return Path(str(found))


def _fetch_weights(name: str, local_files_only: bool) -> None:
    """Bring weights (one file, or an index and its shards) and the generation settings into the cache."""
    _optional(name, "generation_config.json", local_files_only)
    if _optional(name, _SINGLE, local_files_only) is not None:
        return
    index = _optional(name, _INDEX, local_files_only)
    if index is None:
        _from_hub(name, _SINGLE, local_files_only)
        return
    for shard in sorted(set(_parsed(index).get("weight_map", {}).values())):
        _from_hub(name, str(shard), local_files_only)


def _optional(name: str, filename: str, local_files_only: bool) -> Path | None:
    """A file of the hub, or None if the model has none of that name."""
    from transformers.utils import cached_file

    found = cached_file(
        name,
        filename,
        local_files_only=local_files_only,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(str(found))
