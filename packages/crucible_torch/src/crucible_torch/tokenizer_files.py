"""What makes up a tokenizer: read from its files where they say it all, else by transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crucible_ir.errors import NotFoundError
from crucible_torch.location import is_hub_id, no_such_folder

__all__ = ["TokenizerParts", "parts_of", "read_tokenizer"]

_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
_MODELS = ("llama", "qwen3", "gpt2")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
_WITHOUT_EFFECT = (
    "tokenizer_class",
    "backend",
    "clean_up_tokenization_spaces",
    "model_max_length",
    "model_input_names",
    "chat_template",
    "add_bos_token",
    "add_eos_token",
    "added_tokens_decoder",
)
_OTHER_FILES = (
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
)
_LARGEST = 100_000
"""Vocabularies above this size may be corrected by transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerParts:
    """A tokenizer's definition in the JSON of ``tokenizers``, its named special tokens and its templates."""

    definition: str
    bos: int | None
    eos: int | None
    named: Mapping[str, Any]
    """Special tokens by name, as a template sees them."""
    template: str | Mapping[str, str] | None


def read_tokenizer(location: str, *, local_files_only: bool = False) -> TokenizerParts:
    """The parts of the tokenizer in a folder or under a hub id.

    Raises:
        NotFoundError: there is none.
    """
    folder = Path(location).expanduser()
    if folder.is_dir():
        return _from_files(folder) or _from_transformers(str(folder), local_files_only)
    if not is_hub_id(location):
        raise no_such_folder(location)
    return _from_transformers(location, local_files_only)


def _from_files(folder: Path) -> TokenizerParts | None:
    """What transformers would make of a generic fast tokenizer; None where it may do more than read.

    It then takes ``tokenizer.json`` as it is and, where the settings speak of added BOS and EOS or the
    definition has no post-processor, puts one in that adds nothing.
    """
    try:
        settings, model, definition = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("tokenizer_config.json", "config.json", "tokenizer.json")
        )
        if not _says_it_all(folder, settings, model, definition):
            return None
        from tokenizers import Tokenizer

        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # noqa: BLE001 - tokenizers raises it bare; transformers then says what is wrong
        return None
    content = json.loads(backend.to_str())
    if "add_bos_token" in settings or "add_eos_token" in settings or content["post_processor"] is None:
        content["post_processor"] = _adding_nothing()
    named = {name: settings[name] for name in _NAMED if settings.get(name) is not None}
    return TokenizerParts(
        definition=json.dumps(content, ensure_ascii=False),
        bos=backend.token_to_id(named["bos_token"]) if "bos_token" in named else None,
        eos=backend.token_to_id(named["eos_token"]) if "eos_token" in named else None,
        named=named,
        template=settings.get("chat_template"),
    )


def _says_it_all(
    folder: Path, settings: dict[str, Any], model: dict[str, Any], definition: dict[str, Any]
) -> bool:
    """Whether nothing but ``tokenizer.json`` and the named tokens in it makes up the tokenizer."""
    added = {token["content"]: token for token in definition["added_tokens"]}
    named = [settings[name] for name in _NAMED if settings.get(name) is not None]
    template = settings.get("chat_template")
    return (
        settings.get("tokenizer_class") in _GENERIC
        and model.get("model_type") in _MODELS
        and "tokenizer_class" not in model
        and not any((folder / name).exists() for name in _OTHER_FILES)
        and {key for key, value in settings.items() if value} <= {*_WITHOUT_EFFECT, *_NAMED}
        and not settings.get("add_bos_token")
        and not settings.get("add_eos_token")
        and definition.get("truncation") is None
        and definition.get("padding") is None
        and len(definition["model"]["vocab"]) + len(added) <= _LARGEST
        and all(isinstance(token, str) and added.get(token, {}).get("special") for token in named)
        and all(
            added.get(entry["content"]) == {"id": int(index), **entry}
            for index, entry in (settings.get("added_tokens_decoder") or {}).items()
        )
        and (template is None or isinstance(template, str))
    )


def _adding_nothing() -> dict[str, Any]:
    first = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first],
        "pair": [first, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {},
    }


def _from_transformers(location: str, local_files_only: bool) -> TokenizerParts:
    from transformers import AutoTokenizer

    try:
        source = AutoTokenizer.from_pretrained(
            location, use_fast=True, trust_remote_code=False, local_files_only=local_files_only
        )
    except (OSError, ValueError) as error:
        raise NotFoundError(
            what=f"no tokenizer can be loaded from {location} ({str(error).strip().splitlines()[0]})",
            where="base_model",
            remedy="put tokenizer.json and tokenizer_config.json beside the model",
        ) from error
    if getattr(source, "backend_tokenizer", None) is None:
        raise NotFoundError(
            what=f"{location} has a slow tokenizer only",
            where="base_model",
            remedy="convert it to tokenizer.json",
        )
    return parts_of(source)


def parts_of(source: Any) -> TokenizerParts:
    """The parts of a fast tokenizer of transformers."""
    return TokenizerParts(
        definition=source.backend_tokenizer.to_str(),
        bos=source.bos_token_id,
        eos=source.eos_token_id,
        named={name: _plain(token) for name, token in source.special_tokens_map.items()},
        template=source.chat_template,
    )


def _plain(token: Any) -> Any:
    return [str(one) for one in token] if isinstance(token, list | tuple) else str(token)
