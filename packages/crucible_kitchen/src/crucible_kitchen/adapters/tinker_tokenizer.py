"""Which tokenizer a model of the service has, and loading it without running code from its repository."""

from __future__ import annotations

from crucible_train.ports import Tokenizer

__all__ = ["load_served_tokenizer", "tokenizer_location"]

_LLAMA_3 = "meta-llama/Llama-3"
_LLAMA_3_TOKENIZER = "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"


def tokenizer_location(model_name: str) -> str:
    """Where the tokenizer of a model lies whose service does not say; the SDK's rule.

    A suffix ``:…`` and the third part of ``org/model/variant`` name variants of one model; Llama 3 has a copy that
    asks for no licence.
    """
    name = model_name.partition(":")[0]
    if name.startswith(_LLAMA_3):
        return _LLAMA_3_TOKENIZER
    parts = name.split("/")
    return "/".join(parts[:2]) if len(parts) == 3 and all(parts) else name


def load_served_tokenizer(location: str, *, local_files_only: bool) -> Tokenizer:
    """The fast tokenizer of a folder or hub id.

    Raises:
        NotFoundError: there is none.
    """
    from crucible_torch.tokenizer import load_tokenizer

    return load_tokenizer(location, local_files_only=local_files_only)
