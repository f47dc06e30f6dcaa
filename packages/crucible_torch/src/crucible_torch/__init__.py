"""The local torch engine of Crucible: LoRA and full fine-tuning, sampling.

Importing the package brings in neither torch nor transformers; the first client that is made does.
"""

from crucible_torch.backend import LocalBackend

__all__ = ["LocalBackend"]
