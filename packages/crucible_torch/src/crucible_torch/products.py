"""Matrix products whose rows do not depend on each other, and which are fast for few rows.

A row of a float32 product of MKL changes its last bits with the number of rows beside it, at the widths of real
models for fewer than 16 rows and with several threads for any number. oneDNN's does not, from two rows on. So what
is sampled or scored goes through oneDNN where torch has it; elsewhere through ``torch.nn.functional.linear``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import linear, silu

__all__ = ["LowRank", "Matrix", "Pairs", "low_rank", "one_dnn_serves", "steady_product"]

Pairs = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""Adapters by layer path: ``A`` [rank, in] and ``B`` [out, rank]."""

_ROWS_HINT = 32


def one_dnn_serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of that kind can go through oneDNN here."""
    if device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def steady_product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x Wᵀ + b`` of rows [rows, in] and a weight [out, in] where it is."""
    if one_dnn_serves(x.device, x.dtype):
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    return linear(x, weight, bias)


class Matrix:
    """``x ↦ x Wᵀ + b`` for the weights of one or more layers, their outputs side by side.

    With oneDNN the weights are copied into the layout that its kernels read; otherwise they are used where they are.
    """

    __slots__ = ("_bias", "_packed", "_parts")

    def __init__(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None] = ()) -> None:
        self._bias = None
        if any(bias is not None for bias in biases):
            pairs = zip(weights, biases, strict=True)
            self._bias = torch.cat([w.new_zeros(len(w)) if b is None else b.detach() for w, b in pairs])
        self._packed: torch.Tensor | None = None
        self._parts = tuple(weight.detach() for weight in weights)
        if one_dnn_serves(weights[0].device, weights[0].dtype):
            whole = torch.cat(self._parts) if len(self._parts) > 1 else self._parts[0].contiguous()
            self._packed = torch.ops.mkldnn._reorder_linear_weight(whole, _ROWS_HINT)
            self._parts = ()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, in] to [rows, out]."""
        return self._plain(x) if self._packed is None else self._then(x, self._packed, "none")

    def swished(self, x: torch.Tensor) -> torch.Tensor:
        """y · sigmoid(y) of the product y."""
        return silu(self._plain(x)) if self._packed is None else self._then(x, self._packed, "swish")

    def times(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """``other`` · the product."""
        return other * self._plain(x) if self._packed is None else self._with(x, self._packed, other, "mul")

    def added(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """``to`` + the product."""
        return to + self._plain(x) if self._packed is None else self._with(x, self._packed, to, "add")

    def _then(self, x: torch.Tensor, packed: torch.Tensor, function: str) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, self._bias, function, [], "")
        return out

    def _with(
        self, x: torch.Tensor, packed: torch.Tensor, other: torch.Tensor, function: str
    ) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, packed, self._bias, function)
        return out

    def _plain(self, x: torch.Tensor) -> torch.Tensor:
        found = [linear(x, part) for part in self._parts]
        whole = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        return whole if self._bias is None else whole + self._bias


@dataclass(frozen=True, slots=True)
class LowRank:
    """What adapters add to a ``Matrix``: ``down`` of all its layers together, then ``up``, which holds the scale."""

    down: Matrix
    up: Matrix

    def added(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """``to`` + s (x Aᵀ) Bᵀ."""
        return self.up.added(self.down(x), to)


def low_rank(pairs: Pairs, layers: Mapping[str, int], scale: float, dtype: torch.dtype) -> LowRank | None:
    """The adapters of neighbouring ``layers`` (path: outputs) as one; None if none of them has any."""
    found = [(path, width) for path, width in layers.items() if path in pairs]
    if not found:
        return None
    rank = sum(pairs[path][0].shape[0] for path, _ in found)
    down = torch.cat([pairs[path][0].detach() for path, _ in found])
    up = down.new_zeros(sum(layers.values()), rank)
    row = column = 0
    for path, width in layers.items():
        if path in pairs:
            b = pairs[path][1].detach()
            up[row : row + width, column : column + b.shape[1]] = b * scale
            column += b.shape[1]
        row += width
    return LowRank(Matrix([down.to(dtype)]), Matrix([up.to(dtype)]))
