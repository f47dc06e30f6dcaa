"""Losses by name: what each reads from a datum, its settings with their defaults, and its reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import ConfigError, DataError, nearest
from crucible_train.losses.cross_entropy import cross_entropy
from crucible_train.losses.policy import cispo, dro, gspo, importance_sampling, ppo
from crucible_train.losses.value import LossValue
from crucible_train.types import Datum, LossConfig, LossInputs, TensorData

__all__ = ["LOSSES", "LossSpec", "find_loss"]

Floats = NDArray[np.floating]
_CLIP = ("clip_low_threshold", "clip_high_threshold")
_POLICY = ("target_tokens", "logprobs", "advantages")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSpec:
    """A loss: the inputs it needs, those it uses when they are there, and its settings.

    ``defaults`` holds the settings that may be left out; those of ``required`` may not. ``formula`` takes the
    log-probabilities of the target tokens, the datum's inputs and all settings. ``many_targets``: whether a position
    may have K of them.
    """

    name: str
    inputs: tuple[str, ...]
    optional: tuple[str, ...] = ()
    defaults: Mapping[str, float]
    required: tuple[str, ...] = ()
    many_targets: bool = False
    formula: Callable[[Floats, LossInputs, Mapping[str, float]], LossValue]

    @property
    def settings(self) -> tuple[str, ...]:
        """Every setting there is."""
        return (*self.defaults, *self.required)

    def check(self, config: LossConfig) -> dict[str, float]:
        """All settings, those of ``config`` over the defaults.

        Raises:
            ConfigError: a setting that this loss does not have, one out of its range, or one without a default is
                missing.
        """
        for setting in sorted(set(config) - set(self.settings)):
            near = nearest(setting, self.settings)
            raise ConfigError(
                what=f"{self.name} has no setting {setting}",
                where="loss_config",
                remedy=f"did you mean {near!r}?" if near else f"it has {', '.join(self.settings) or 'none'}",
            )
        for setting in self.required:
            if setting not in config:
                raise ConfigError(
                    what=f"{self.name} needs {setting}, for which no default is documented",
                    where=f"loss_config.{setting}",
                    remedy="give it, for example 0.05",
                )
        settings = {**self.defaults, **config}
        self.formula(np.zeros(1), self._nothing(), settings)  # the formula itself knows the ranges
        return settings

    def _nothing(self) -> LossInputs:
        """One token that has no part in the loss."""
        return {name: TensorData(np.zeros(1, np.float32)) for name in (*self.inputs, *self.optional)}

    def check_inputs(self, datum: Datum, where: str = "Datum") -> None:
        """Every input is there and has the shape of the targets.

        Raises:
            DataError: an input is missing or has another shape, or there are several targets per position
                where the loss takes one.
        """
        held = datum.loss_fn_inputs
        for name in self.inputs:
            if name not in held:
                raise DataError(
                    what=f"{self.name} needs {name!r}; the datum has {sorted(held)}",
                    where=f"{where}.loss_fn_inputs",
                    remedy=f"build the datum with {name!r}",
                )
        shape = held["target_tokens"].shape
        if len(shape) > 1 and not self.many_targets:
            raise DataError(
                what=f"target_tokens of shape {shape} for {self.name}",
                where=f"{where}.loss_fn_inputs.target_tokens",
                remedy="give one target per position, (N,); only cross_entropy takes (N, K)",
            )
        for name in (*self.inputs, *self.optional):
            if name in held and held[name].shape != shape:
                raise DataError(
                    what=f"{name} of shape {held[name].shape} for target_tokens of shape {shape}",
                    where=f"{where}.loss_fn_inputs.{name}",
                    remedy="give one entry per target token",
                )

    def evaluate(self, logprobs: Floats, datum: Datum, config: LossConfig | None = None) -> LossValue:
        """Value and gradient for one datum, given the log-probability of each target token.

        Raises:
            DataError: as ``check_inputs``.
            ConfigError: as ``check``, or a setting out of its range.
        """
        settings = self.check(config or {})
        self.check_inputs(datum)
        return self.formula(logprobs, datum.loss_fn_inputs, settings)


def _array(inputs: LossInputs, name: str) -> Floats:
    return inputs[name].array.astype(np.float64)


def _cross_entropy(logprobs: Floats, inputs: LossInputs, settings: Mapping[str, float]) -> LossValue:
    return cross_entropy(logprobs, _array(inputs, "weights"))


def _importance(logprobs: Floats, inputs: LossInputs, settings: Mapping[str, float]) -> LossValue:
    return importance_sampling(logprobs, _array(inputs, "logprobs"), _array(inputs, "advantages"))


def _ppo(logprobs: Floats, inputs: LossInputs, settings: Mapping[str, float]) -> LossValue:
    return ppo(logprobs, _array(inputs, "logprobs"), _array(inputs, "advantages"), **settings)


def _cispo(logprobs: Floats, inputs: LossInputs, settings: Mapping[str, float]) -> LossValue:
    return cispo(logprobs, _array(inputs, "logprobs"), _array(inputs, "advantages"), **settings)


def _dro(logprobs: Floats, inputs: LossInputs, settings: Mapping[str, float]) -> LossValue:
    mask = _array(inputs, "mask") if "mask" in inputs else None
    given = (_array(inputs, "logprobs"), _array(inputs, "advantages"))
    return dro(logprobs, *given, beta=settings["beta"], mask_T=mask)


def _gspo(logprobs: Floats, inputs: LossInputs, settings: Mapping[str, float]) -> LossValue:
    names = ("logprobs", "advantages", "sequence_ratio_mask")
    sampled, advantages, mask = (_array(inputs, name) for name in names)
    return gspo(logprobs, sampled, advantages, mask, **settings)


def _clip(low: float, high: float) -> Mapping[str, float]:
    return MappingProxyType(dict(zip(_CLIP, (low, high), strict=True)))


_NONE: Mapping[str, float] = MappingProxyType({})
_ALL = (
    LossSpec(
        name="cross_entropy",
        inputs=("target_tokens", "weights"),
        defaults=_NONE,
        many_targets=True,
        formula=_cross_entropy,
    ),
    LossSpec(name="importance_sampling", inputs=_POLICY, defaults=_NONE, formula=_importance),
    LossSpec(name="ppo", inputs=_POLICY, defaults=_clip(0.8, 1.2), formula=_ppo),
    LossSpec(name="cispo", inputs=_POLICY, defaults=_clip(0.0, 4.0), formula=_cispo),
    LossSpec(
        name="dro", inputs=_POLICY, optional=("mask",), defaults=_NONE, required=("beta",), formula=_dro
    ),
    LossSpec(
        name="gspo",
        inputs=(*_POLICY, "sequence_ratio_mask"),
        defaults=_clip(0.8, 1.2),
        formula=_gspo,
    ),
)

LOSSES: Mapping[str, LossSpec] = MappingProxyType({loss.name: loss for loss in _ALL})
"""Every loss, by the name that ``forward_backward`` takes."""


def find_loss(name: str) -> LossSpec:
    """The loss of that name.

    Raises:
        ConfigError: there is none; the message names the nearest, or says why it is refused.
    """
    found = LOSSES.get(name)
    if found is not None:
        return found
    if name == "stable_reinforce":
        raise ConfigError(
            what="stable_reinforce has no public formula: it uses figures that one service keeps for its own samples",
            where="loss_fn",
            remedy="use importance_sampling, ppo, cispo, dro or gspo",
        )
    near = nearest(name, LOSSES)
    hint = f"did you mean {near!r}? " if near else ""
    raise ConfigError(
        what=f"no loss is called {name!r}",
        where="loss_fn",
        remedy=f"{hint}valid: {', '.join(sorted(LOSSES))}; forward_backward_custom takes any other",
    )
