"""How many rows a matrix product has, so that none of them depends on the others.

On a CPU the last bit of a row of a float32 product may depend on how many rows there are: with 1-3 of them, with
a single column, and, where several threads share the rows out, with numbers that 4 does not divide. With multiples
of 4 it does not, however many threads there are. So everything that is sampled or scored together is padded to
one: rows of the model, positions of each prompt, query positions of an attention.
"""

from __future__ import annotations

import torch

__all__ = ["ROW_MULTIPLE", "padded", "padding"]

ROW_MULTIPLE = 4


def padding(rows: int) -> int:
    """Rows that are missing to a multiple."""
    return -rows % ROW_MULTIPLE


def padded(rows: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """``rows`` with zeros behind them along ``dim``, up to a multiple."""
    missing = padding(rows.shape[dim])
    if not missing:
        return rows
    shape = list(rows.shape)
    shape[dim] = missing
    return torch.cat([rows, rows.new_zeros(shape)], dim=dim)
