"""AdamW over named float32 tensors, with settings per step."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from crucible_train.types import AdamParams

__all__ = ["MOMENTS", "AdamW", "gradient_norm"]

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What the optimiser keeps for each weight."""


def gradient_norm(grads: Mapping[str, torch.Tensor]) -> float:
    """L2 norm over all gradients."""
    norms = torch._foreach_norm(list(grads.values()))
    return float(torch.linalg.vector_norm(torch.stack(list(norms))))


class AdamW:
    """torch's AdamW (Loshchilov & Hutter 2019, decoupled decay), fused; learning rate 0 changes no bit.

    ``steps`` counts the steps applied.
    """

    def __init__(self, masters: Mapping[str, torch.Tensor]) -> None:
        self._masters = dict(masters)
        self._first = {name: torch.zeros_like(master) for name, master in self._masters.items()}
        self._second = {name: torch.zeros_like(master) for name, master in self._masters.items()}
        self.steps = 0

    @torch.no_grad()
    def step(
        self, grads: Mapping[str, torch.Tensor], params: AdamParams, *, norm: float | None = None
    ) -> float:
        """Clip ``grads`` (in place), apply them, and return their norm before clipping.

        ``norm`` is for who holds a part of the gradients alone: that of all of them.
        """
        norm = gradient_norm(grads) if norm is None else norm
        ordered = [grads[name] for name in self._masters]
        if params.grad_clip_norm > 0:
            torch._foreach_mul_(ordered, min(1.0, params.grad_clip_norm / (norm + 1e-6)))
        counts = [torch.tensor(float(self.steps + 1), device=grad.device) for grad in ordered]
        moved = [master.detach() for master in self._masters.values()]
        if params.learning_rate == 0:  # the kernel turns -0.0 into 0.0; only the moments are to move
            moved = [weight.clone() for weight in moved]
        torch._fused_adamw_(
            moved,
            ordered,
            list(self._first.values()),
            list(self._second.values()),
            [],
            counts,
            lr=params.learning_rate,
            beta1=params.beta1,
            beta2=params.beta2,
            weight_decay=params.weight_decay,
            eps=params.eps,
            amsgrad=False,
            maximize=False,
        )
        self.steps += 1
        return norm

    def state(self) -> dict[str, torch.Tensor]:
        """Both moments by name: ``<name>.exp_avg`` and ``<name>.exp_avg_sq``."""
        named = {f"{name}.exp_avg": moment for name, moment in self._first.items()}
        return named | {f"{name}.exp_avg_sq": moment for name, moment in self._second.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, torch.Tensor], steps: int) -> None:
        """Put saved moments and their step count in place of the present ones."""
        for name in self._masters:
            self._first[name].copy_(state[f"{name}.exp_avg"])
            self._second[name].copy_(state[f"{name}.exp_avg_sq"])
        self.steps = steps

    @torch.no_grad()
    def reset(self) -> None:
        """Forget the moments."""
        for moment in (*self._first.values(), *self._second.values()):
            moment.zero_()
        self.steps = 0
