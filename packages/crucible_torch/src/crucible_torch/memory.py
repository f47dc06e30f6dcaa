"""Out of memory, said in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from crucible_ir.errors import TrainError

__all__ = ["memory_errors"]


@contextmanager
def memory_errors(lower: str) -> Iterator[None]:
    """Turn torch's out-of-memory error inside the block into ours; ``lower`` names the settings that help.

    Raises:
        TrainError: memory ran out.
    """
    oom: Any = torch.OutOfMemoryError
    try:
        yield
    except oom as error:
        raise TrainError(
            what=f"out of memory ({str(error).splitlines()[0]})",
            where="local engine",
            remedy=f"lower {lower}, or use bfloat16",
        ) from error
