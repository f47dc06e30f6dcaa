"""The trainable tensors of a client, their float32 masters, and the gradients that wait for a step."""

from __future__ import annotations

from collections.abc import Mapping

import torch

__all__ = ["Gradients", "TrainableWeights", "local"]


@torch.no_grad()
def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor that is spread over several; else the tensor itself."""
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


class TrainableWeights:
    """Leaves that the model computes with, by name, and the float32 values that the optimiser moves.

    In float32 the two are the same tensors; a bfloat16 leaf is a rounded copy of its master. Of a leaf that is
    spread over processes each has its own part as master.
    """

    def __init__(self, leaves: Mapping[str, torch.Tensor]) -> None:
        self.leaves = dict(leaves)
        self.masters = {
            name: part if part.dtype == torch.float32 else part.detach().float()
            for name, part in ((name, local(leaf)) for name, leaf in self.leaves.items())
        }

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into leaves of another dtype."""
        for name, leaf in self.leaves.items():
            if leaf.dtype != torch.float32:
                local(leaf).copy_(self.masters[name])

    @torch.no_grad()
    def load(self, values: Mapping[str, torch.Tensor]) -> None:
        """Put these values in place of the present ones; names and shapes have been checked."""
        for name, master in self.masters.items():
            master.copy_(values[name])
        self.publish()


class Gradients:
    """Sums of gradients in float32; a call's share joins them only when the whole call went through."""

    def __init__(self, weights: TrainableWeights) -> None:
        self._weights = weights
        self._pending: dict[str, torch.Tensor] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._calls = 0

    def collect(self) -> None:
        """Take what backward left on the leaves into the share of the present call."""
        for name, leaf in self._weights.leaves.items():
            if leaf.grad is not None:
                _add(self._pending, name, local(leaf.grad).float())
                leaf.grad = None

    def commit(self) -> None:
        """The present call went through: its share counts."""
        for name, grad in self._pending.items():
            _add(self._sums, name, grad)
        self._pending = {}
        self._calls += 1

    def discard(self) -> None:
        """The present call failed: its share is forgotten."""
        self._pending = {}
        for leaf in self._weights.leaves.values():
            leaf.grad = None

    def take(self) -> dict[str, torch.Tensor]:
        """The sums by name, zeros where nothing arrived; they are cleared. Empty if no call went through."""
        sums, self._sums = self._sums, {}
        calls, self._calls = self._calls, 0
        if not calls:
            return {}
        masters = self._weights.masters
        return {name: sums[name] if name in sums else torch.zeros_like(masters[name]) for name in masters}


def _add(into: dict[str, torch.Tensor], name: str, grad: torch.Tensor) -> None:
    if name in into:
        into[name].add_(grad)
    else:
        into[name] = grad
