"""How many rows a pass has: few different numbers, and more than one.

On a CPU a row of a product is the same whatever is beside it only if something is (``products``). And oneDNN makes a
kernel for every new number of rows, which takes as long as several passes. So rows are padded to a multiple of 4
and of a 16th of the next power of two, many of them of a 32nd.
"""

from __future__ import annotations

import torch

__all__ = ["padded", "rounded"]

_LEAST_STEP = 4
_FEW = 256


def rounded(rows: int) -> int:
    """The number of rows that a pass over ``rows`` has."""
    step = max(_LEAST_STEP, (1 << (rows - 1).bit_length()) // (16 if rows <= _FEW else 32))
    return -(-rows // step) * step


def padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    """``rows`` with zeros behind them, ``count`` in all."""
    missing = count - len(rows)
    if missing <= 0:
        return rows
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
