"""Faults that training backends have had, each planted into a sound one, and the checks that have to see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from crucible_ir import CheckpointRef
from crucible_testing import sampling_faults, training_faults
from crucible_testing.faulty import FaultyBackend, FaultySampler, FaultyTraining
from crucible_train.ports import SamplingClient, TrainingBackend, TrainingClient, TrainingSpec

__all__ = ["FAULTS", "Fault"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """How a backend is spoilt, and the ids of the checks that fail then."""

    seen_by: frozenset[str]
    backend: Callable[[TrainingBackend], FaultyBackend]
    of_sampler: bool = False
    """Whether only what samplers return is spoilt."""


class _SeedsDiffer(FaultyBackend):
    """The seed of an adapter is ignored."""

    async def create_training_client(self, spec: TrainingSpec) -> TrainingClient:
        return await super().create_training_client(replace(spec, seed=spec.seed + self.made))


class _SavedWithoutAdapter(FaultyBackend):
    """Saved sampler weights are loaded without their adapter."""

    async def create_sampling_client(
        self, base_model: str, weights: CheckpointRef | None = None
    ) -> SamplingClient:
        return await super().create_sampling_client(base_model)


def _training(fault: type[FaultyTraining], *seen_by: str) -> Fault:
    return Fault(seen_by=frozenset(seen_by), backend=lambda inner: FaultyBackend(inner, training=fault))


def _sampling(fault: type[FaultySampler], *seen_by: str) -> Fault:
    return Fault(
        seen_by=frozenset(seen_by),
        backend=lambda inner: FaultyBackend(inner, sampler=fault),
        of_sampler=True,
    )


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "seeds ignored": _sampling(sampling_faults.SeedsIgnored, "sampling.seed"),
        "one seed where none is given": _sampling(sampling_faults.OneSeedForNone, "sampling.no_seed"),
        "samples depend on their number": _sampling(sampling_faults.CountDecides, "sampling.count"),
        "temperature 0 draws": _sampling(sampling_faults.NeverGreedy, "sampling.greedy"),
        "stop tokens ignored": _sampling(sampling_faults.StopIgnored, "sampling.stop"),
        "one token more than asked for": _sampling(sampling_faults.OneTokenMore, "sampling.length"),
        "log-probabilities at the sampling temperature": _sampling(
            sampling_faults.ScaledLogprobs, "scores.sampled"
        ),
        "prompt log-probabilities one short": _sampling(sampling_faults.PromptOneShort, "scores.prompt"),
        "adapter not applied by the sampler": replace(
            _training(training_faults.AdapterNotSampled, "adapter.sampler"), of_sampler=True
        ),
        "stale weights in the sampler": replace(
            _training(training_faults.StaleSampler, "adapter.newest"), of_sampler=True
        ),
        "saved weights without the adapter": Fault(
            seen_by=frozenset({"adapter.saved"}), backend=_SavedWithoutAdapter, of_sampler=True
        ),
        "adapter seed ignored": Fault(seen_by=frozenset({"models.seed"}), backend=_SeedsDiffer),
        "one model leaks into another": _training(training_faults.LeaksIntoAnother, "models.apart"),
        "requests overtake each other": _training(training_faults.StepsOvertaken, "models.order"),
        "forward accumulates gradients": _training(training_faults.ForwardAccumulates, "gradients.forward"),
        "a pass replaces earlier gradients": _training(
            training_faults.GradientsReplaced, "gradients.accumulate"
        ),
        "gradients stay after a step": _training(training_faults.GradientsStay, "gradients.cleared"),
        "mean over tokens": _training(training_faults.MeanOverTokens, "loss.value", "loss.rows"),
        "weights normalised away": _training(
            training_faults.WeightsNormalised, "loss.value", "loss.weights", "loss.rows"
        ),
        "mask shifted by one": _training(training_faults.MaskShifted, "loss.mask", "loss.mask_gradient"),
        "mask of the gradient shifted by one": _training(
            training_faults.GradientMaskShifted, "loss.mask_gradient"
        ),
        "custom gradient with the wrong sign": _training(training_faults.CustomSignTurned, "loss.custom"),
        "no bias correction": _training(training_faults.NoBiasCorrection, "optimizer.first_step"),
        "betas ignored": _training(training_faults.BetasIgnored, "optimizer.betas"),
        "eps ignored": _training(training_faults.EpsIgnored, "optimizer.epsilon"),
        "clip ignored": _training(training_faults.ClipIgnored, "optimizer.clip"),
        "weight decay ignored": _training(training_faults.DecayIgnored, "optimizer.decay"),
        "optimiser state not loaded": _training(training_faults.LoadedWithoutOptimizer, "state.resumed"),
        "optimiser state loaded unasked": _training(
            training_faults.LoadedWithOptimizer, "state.without_optimizer"
        ),
        "tokens outside the vocabulary clamped": _training(training_faults.TokensClamped, "errors.tokens"),
    }
)
"""Faults by name."""
