"""A bundled tiny causal language model with its tokenizer and data, for the Crucible quickstart."""

from importlib.resources import files
from pathlib import Path

__all__ = ["data_path", "model_path"]


def model_path() -> Path:
    """The folder of the model: weights, configuration and tokenizer, as `from_pretrained` of transformers takes it."""
    return Path(str(files("crucible_tiny"))) / "model"


def data_path(name: str) -> Path:
    """The file of the data set `name`, such as `chat_train`. Raises FileNotFoundError, naming those there are."""
    folder = Path(str(files("crucible_tiny"))) / "data"
    path = folder / f"{name.removesuffix('.jsonl')}.jsonl"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in folder.glob("*.jsonl")))
        raise FileNotFoundError(f"crucible_tiny has no data set {name!r}; it has {known}")
    return path
