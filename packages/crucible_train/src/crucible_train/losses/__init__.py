"""Losses over log-probabilities of target tokens: value and gradient in numpy, the reference for engines."""

from crucible_train.losses.cross_entropy import cross_entropy
from crucible_train.losses.policy import cispo, dro, gspo, importance_sampling, ppo
from crucible_train.losses.registry import LOSSES, LossSpec, find_loss
from crucible_train.losses.value import LossValue

__all__ = [
    "LOSSES",
    "LossSpec",
    "LossValue",
    "cispo",
    "cross_entropy",
    "dro",
    "find_loss",
    "gspo",
    "importance_sampling",
    "ppo",
]
