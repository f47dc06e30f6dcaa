"""Learning-rate multipliers over a run.

With t the step from 0 and T the number of steps: linear 1 − t/T, cosine ½(1 + cos(π t/T)), constant 1;
with n steps of warm-up t/n for t < n, then the schedule over the T − n steps that are left.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from crucible_ir.errors import ConfigError, nearest

__all__ = ["ScheduleName", "lr_multiplier"]

ScheduleName = Literal["linear", "cosine", "constant"]


def lr_multiplier(schedule: ScheduleName, step: int, total_steps: int, *, warmup_steps: int = 0) -> float:
    """The factor for the base rate at ``step``, always in [0, 1].

    At and after ``total_steps`` linear and cosine stay at 0; upstream goes on below 0 (linear) or
    rises again (cosine).

    Raises:
        ConfigError: an unknown schedule, no steps, a negative step, or a warm-up that leaves no step.
    """
    if schedule not in get_args(ScheduleName):
        near = nearest(schedule, get_args(ScheduleName))
        raise ConfigError(
            what=f"no schedule is called {schedule!r}",
            where="schedule",
            remedy=f"did you mean {near!r}?" if near else f"valid: {', '.join(get_args(ScheduleName))}",
        )
    if total_steps < 1:
        raise ConfigError(
            what=f"total_steps = {total_steps}", where="total_steps", remedy="give 1 or more steps"
        )
    if step < 0:
        raise ConfigError(what=f"step = {step}", where="step", remedy="count steps from 0")
    if not 0 <= warmup_steps < total_steps:
        raise ConfigError(
            what=f"{warmup_steps} warm-up steps of {total_steps}",
            where="warmup_steps",
            remedy=f"give 0 to {total_steps - 1}",
        )
    if step < warmup_steps:
        return step / warmup_steps
    return _decay(schedule, min(step - warmup_steps, total_steps - warmup_steps), total_steps - warmup_steps)


def _decay(schedule: ScheduleName, step: int, total: int) -> float:
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1 - step / total
    return 0.5 * (1 + math.cos(math.pi * step / total))
