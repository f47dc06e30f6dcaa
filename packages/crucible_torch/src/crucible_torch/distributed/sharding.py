"""Weights over several processes (FSDP2), and examples shared out among them."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.distributed.device_mesh import DeviceMesh

from crucible_torch.attention import PackedPlan, RowPlan
from crucible_torch.model import LoadedModel
from crucible_torch.packing import MicroBatch, Run

__all__ = ["ShardedModel", "balanced", "idle_batch", "shard"]


@dataclass(slots=True, kw_only=True)
class ShardedModel(LoadedModel):
    """A model of which each process holds a part; every process runs every pass."""

    mesh: DeviceMesh
    open_copy: Callable[[], LoadedModel]
    """The whole model, as it is on disk, in this process."""

    def hidden(
        self, tokens: torch.Tensor, positions: torch.Tensor, plan: PackedPlan | RowPlan
    ) -> torch.Tensor:
        """As ``LoadedModel.hidden``; the head stays whole after it until ``reshard``."""
        states: torch.Tensor = self.module.crucible_hidden(tokens, positions, plan)
        return states

    def reshard(self) -> None:
        """Keep only this process's part of what a pass has gathered."""
        self.module.reshard()

    def complete_gradients(self) -> None:
        """Zeros where the head has no gradient, so that every process adds up the same tensors."""
        for weight in self.module.get_output_embeddings().parameters(recurse=False):
            if weight.requires_grad and weight.grad is None:
                weight.grad = torch.zeros_like(weight)


def shard(model: LoadedModel, mesh: DeviceMesh, *, open_copy: Callable[[], LoadedModel]) -> ShardedModel:
    """Spread a model's weights over ``mesh``, a decoder layer at a time; the whole of it is given up.

    Gradients are added up in float32, as losses are sums.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    module = model.module
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for part in list(_layers(module)):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for part in module.modules():
        if hasattr(part, "set_gradient_divide_factor"):
            part.set_force_sum_reduction_for_comms(True)
            part.set_gradient_divide_factor(1.0)
    module.crucible_hidden = types.MethodType(_hidden, module)
    register_fsdp_forward_method(module, "crucible_hidden")
    return ShardedModel(
        files=model.files,
        digest=model.digest,
        module=module,
        device=model.device,
        dtype=model.dtype,
        active=model.active,
        kinds=model.kinds,
        layers=model.layers,
        mesh=mesh,
        open_copy=open_copy,
    )


def _layers(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The decoder layers: what stands in a list, but not within another list."""
    for child in module.children():
        if isinstance(child, torch.nn.ModuleList):
            yield from child
        else:
            yield from _layers(child)


def _hidden(
    module: Any, tokens: torch.Tensor, positions: torch.Tensor, plan: PackedPlan | RowPlan
) -> torch.Tensor:
    out = module.base_model(input_ids=tokens, position_ids=positions, use_cache=False, crucible_plan=plan)
    states: torch.Tensor = out.last_hidden_state
    return states


def balanced(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Places of ``lengths`` in as many parts of nearly the same sum, each in order.

    The longest first, each to the part with the least so far (Graham 1969); same input, same parts.
    """
    sums = [0] * parts
    shares: list[list[int]] = [[] for _ in range(parts)]
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        part = sums.index(min(sums))
        sums[part] += lengths[place]
        shares[part].append(place)
    return [sorted(share) for share in shares]


def idle_batch(*, graded: bool) -> MicroBatch:
    """One token of no example, for a process that has nothing to do while others have."""
    return MicroBatch(
        examples=(),
        tokens=np.zeros(1, dtype=np.int64),
        positions=np.zeros(1, dtype=np.int64),
        runs=(Run(0, 1, 1),),
        branches=(),
        spots=(),
        graded=graded,
    )
