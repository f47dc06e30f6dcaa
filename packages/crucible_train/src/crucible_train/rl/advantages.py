"""From rewards to advantages: centred within the group, float32, not divided by a deviation.

Array suffixes: G members of a group, P groups, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crucible_ir.errors import ConfigError
from crucible_train.rl.trajectory import TrajectoryGroup

__all__ = [
    "compute_advantages",
    "discounted_future_sum",
    "group_advantages",
    "remove_constant_reward_groups",
]

FloatArray = NDArray[np.float32]


def group_advantages(rewards_G: ArrayLike) -> FloatArray:
    """R − mean(R) in float32; empty for an empty group."""
    rewards = np.asarray(rewards_G, dtype=np.float32)
    return rewards - rewards.mean(dtype=np.float32) if rewards.size else rewards


def compute_advantages(groups_P: Sequence[TrajectoryGroup]) -> list[FloatArray]:
    """One advantage per trajectory, (G,) for each group.

    Raises:
        DataError: a trajectory could not be judged.
    """
    return [group_advantages(group.total_rewards()) for group in groups_P]


def remove_constant_reward_groups(groups_P: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
    """Groups whose members do not all have one and the same reward; the first group where none has two.

    A group of equal rewards teaches nothing. One is kept so that a batch is never empty. Tags stay with their groups.

    Raises:
        DataError: a trajectory could not be judged.
    """
    mixed = [group for group in groups_P if len(set(group.total_rewards())) > 1]
    return mixed or list(groups_P[:1])


def discounted_future_sum(values_T: ArrayLike, discount: float) -> FloatArray:
    """y_t = x_t + discount·y_{t+1}, float32.

    Raises:
        ConfigError: the discount is outside [0, 1].
    """
    if not 0 <= discount <= 1:
        raise ConfigError(what=f"discount = {discount}", where="discount", remedy="give 0 ≤ discount ≤ 1")
    values = np.asarray(values_T, dtype=np.float32)
    found = values.astype(np.float64)
    for t in range(len(found) - 2, -1, -1):
        found[t] += discount * found[t + 1]
    return found.astype(np.float32)
