"""How many rows a pass has: few different numbers, since kernels are made for each, and enough of them.

On a CPU the last bit of a row of a float32 product may depend on how many rows there are. oneDNN's products do not
from 2 rows on; those of MKL, which run models without a decoder of ours, from 16 rows on with one thread. One
more thing costs: oneDNN makes a kernel for every new number of rows, which takes as long as several passes. So rows
are padded to a multiple of 4 and of an eighth of the next power of two, many of them of a 32nd.
"""

from __future__ import annotations

import torch

__all__ = ["padded", "rounded"]

_LEAST_STEP = 4
_FEW = 256


def rounded(rows: int, least: int = _LEAST_STEP) -> int:
    """The number of rows that a pass over ``rows`` has, at least ``least``."""
    step = max(_LEAST_STEP, (1 << (rows - 1).bit_length()) // (8 if rows <= _FEW else 32))
    return max(least, -(-rows // step) * step)


def padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    """``rows`` with zeros behind them, ``count`` in all."""
    missing = count - len(rows)
    if missing <= 0:
        return rows
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
