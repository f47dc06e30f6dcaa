"""Losses over log-probabilities of target tokens: value and gradient in numpy, the reference for engines."""

from crucible_train.losses.cross_entropy import LossValue, cross_entropy

__all__ = ["LossValue", "cross_entropy"]
