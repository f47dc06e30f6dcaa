"""Which dtype "auto" is: bfloat16 where this machine gains by it, measured, and the same again for the same run."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from crucible_torch.checkpoint import storage_errors
from crucible_torch.settings import NARROWEST

__all__ = ["gains_from_bfloat16", "measured_gain", "remembered"]

DTypeWish = Literal["float32", "bfloat16"]

_FILE = "engine.json"
_LEAST_GAIN = 1.5
_ROWS, _REPEATS = 256, 7


def gains_from_bfloat16(width: int) -> bool:
    """Whether a CPU trains a model of that hidden width faster in bfloat16.

    It does if a product of that width takes at least 1.5 times as long in float32, which is measured once per
    process and width. Models narrower than ``NARROWEST`` spend their time on other things than products.
    """
    return width >= NARROWEST and measured_gain(width) >= _LEAST_GAIN


@cache
def measured_gain(width: int) -> float:
    """Processor time of a product of (256, width) and (width, width) in float32 over that in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.rand(rows, width, generator=generator) for rows in (_ROWS, width))
    narrow = left.bfloat16(), right.bfloat16()
    return _seconds(lambda: left @ right) / _seconds(lambda: narrow[0] @ narrow[1])


def _seconds(work: Callable[[], object]) -> float:
    """Median processor time of a call; the first does not count, since kernels are made then."""
    work()
    took = []
    for _ in range(_REPEATS):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return max(statistics.median(took), 1e-9)


def remembered(folder: Path, choose: Callable[[], DTypeWish]) -> DTypeWish:
    """The dtype that a run's folder names, or the one chosen now, which it names from now on.

    So a run that is resumed, here or on another machine, computes as it did before.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / _FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["dtype"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found in ("float32", "bfloat16"):
        return "bfloat16" if found == "bfloat16" else "float32"
    chosen = choose()
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{_FILE}.draft-{os.getpid()}"
        draft.write_text(json.dumps({"dtype": chosen}) + "\n", encoding="utf-8")
        draft.replace(path)
    return chosen
