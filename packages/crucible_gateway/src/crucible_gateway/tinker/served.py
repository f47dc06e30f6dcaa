"""Which base models a server has, from the words of its command line."""

from __future__ import annotations

import json
from pathlib import Path

from crucible_gateway.tinker.settings import ServedModel
from crucible_ir import ConfigError, NotFoundError

__all__ = ["served_model"]


def served_model(text: str, *, local: bool) -> ServedModel:
    """The model that ``text`` names: a folder, a hub id, or ``NAME=FOLDER``.

    Clients load the tokenizer themselves: from the folder where they are on this machine (``local``), and by the
    model's name otherwise.

    Raises:
        NotFoundError: there is no such folder.
        ConfigError: a name or a folder is missing, or a folder from which the SDK could not load a tokenizer
            under its own name.
    """
    name, equals, source = text.partition("=")
    if not equals:
        name = source = text
    if not name.strip() or not source.strip():
        raise ConfigError(
            what=f"{text!r} names no model", where="--model", remedy="give a folder, a hub id, or NAME=FOLDER"
        )
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if equals or source.startswith(("/", ".", "~")):
            raise NotFoundError(
                what=f"there is no folder {source}", where="--model", remedy="give one that is there"
            )
        return ServedModel(name=name, source=source, tokenizer_id=name)
    folder = folder.resolve()
    if not equals:
        name = str(folder)
    if name.count("/") == 2 and not name.count("//"):
        raise ConfigError(
            what=f"the Tinker SDK reads {name!r} as a name with a variant and drops its last part",
            where="--model",
            remedy=f"give it a name: --model NAME={source}",
        )
    return ServedModel(
        name=name,
        source=str(folder),
        tokenizer_id=str(folder) if local else name,
        max_length=_max_length(folder),
    )


def _max_length(folder: Path) -> int | None:
    """The longest input that the model's own config speaks of."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for key in ("max_position_embeddings", "n_positions"):
        value = config.get(key) if isinstance(config, dict) else None
        if isinstance(value, int) and value > 0:
            return value
    return None
