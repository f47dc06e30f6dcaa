"""Checks of policy losses against their references in numpy, one for each loss."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crucible_kitchen.conformance.bench import Bench
from crucible_kitchen.conformance.check import Check, Run
from crucible_kitchen.conformance.compare import require_near
from crucible_kitchen.conformance.gradients import RELATIVE
from crucible_kitchen.conformance.material import BATCH, weighted
from crucible_train.losses import LOSSES
from crucible_train.types import Datum, LossConfig, TensorData

__all__ = ["CHECKS"]

_PROMPT = 2
"""Positions at the start of each datum that were not sampled: advantage 0, sampler's log-probability 0."""
_SETTINGS: Mapping[str, LossConfig] = {
    "importance_sampling": {},
    "ppo": {"clip_low_threshold": 0.8, "clip_high_threshold": 1.25},
    "cispo": {"clip_low_threshold": 0.7, "clip_high_threshold": 1.3},
    "dro": {"beta": 0.05},
    "gspo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1},
}


async def _data(bench: Bench, loss: str) -> list[Datum]:
    """Datums whose samplers' log-probabilities lie around those of a fresh adapter: ratios inside and outside clips."""
    rng = np.random.Generator(np.random.PCG64(4))
    data = []
    for one, logprobs in zip(BATCH, await bench.base(), strict=True):
        sampled = logprobs + rng.uniform(-0.6, 0.6, logprobs.shape)
        advantages = rng.normal(size=logprobs.shape)
        inside = np.arange(len(logprobs)) >= _PROMPT
        arrays = {
            "logprobs": np.where(inside, sampled, 0.0),
            "advantages": np.where(inside, advantages, 0.0),
            "sequence_ratio_mask": inside,
        }
        tensors = {
            name: TensorData(array.astype(np.float32))
            for name, array in arrays.items()
            if name in LOSSES[loss].inputs
        }
        targets = one.loss_fn_inputs["target_tokens"]
        data.append(Datum(one.model_input, {"target_tokens": targets, **tensors}))
    return data


def _check_of(loss: str) -> Run:
    async def run(bench: Bench) -> str:
        data, settings = await _data(bench, loss), _SETTINGS[loss]
        base = await bench.base()
        values = [LOSSES[loss].evaluate(lp, one, settings) for lp, one in zip(base, data, strict=True)]
        slopes = weighted(BATCH, [value.gradient for value in values])
        wanted = await bench.norm(await bench.fresh(), slopes)
        client = await bench.fresh()
        told = (await client.forward_backward(data, loss, settings)).metrics["loss:sum"]
        steep = sum(float(np.abs(value.gradient).sum()) for value in values)
        require_near(
            told,
            sum(value.loss for value in values),
            within=bench.tolerance * max(1.0, 2 * steep),
            what=f"loss:sum of {loss}",
            expected="the value of the reference, a sum over tokens",
            diagnosis=f"{loss} has another formula, other thresholds than those sent, or is a mean",
        )
        return require_near(
            await bench.norm(client, slopes) / wanted,
            0.0,
            within=RELATIVE,
            what="the norm of what is left when cross_entropy takes the reference's gradient back, over its norm,",
            expected=f"the gradient of {loss} is that of the reference",
            diagnosis=f"the gradient of {loss} is not that of its formula (clipping, sign, or what is held constant)",
        )

    return run


CHECKS = tuple(
    Check(
        id=f"policy.{loss}",
        title=f"{loss} and its gradient are those of the reference",
        tolerance="1 % of the gradient's norm; tolerance in nats for each token",
        run=_check_of(loss),
        builds_on=("loss.value", "loss.weights", "loss.negative", "loss.mask_gradient"),
        needs=(f"loss:{loss}",),
    )
    for loss in _SETTINGS
)
