"""Checks of losses: sums with the weights as sent, masks in their place, and loss functions of the caller's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crucible_kitchen.conformance.bench import Bench
from crucible_kitchen.conformance.check import Check, Mismatch
from crucible_kitchen.conformance.compare import require_near
from crucible_kitchen.conformance.gradients import RELATIVE
from crucible_kitchen.conformance.material import BATCH, scaled, weighted
from crucible_train.ports import CustomLoss
from crucible_train.types import Datum, TensorData

__all__ = ["CHECKS"]

_NORM = "1 % of the gradient's norm"
_SUM = "tolerance in nats for each token of weight 1"


async def _value(bench: Bench) -> str:
    factors = (1.0, -0.5, 2.0)
    data = weighted(BATCH, [one.weights * factor for one, factor in zip(BATCH, factors, strict=True)])
    base = await bench.base()
    wanted = -sum(factor * float(lp.sum()) for factor, lp in zip(factors, base, strict=True))
    count = sum(abs(factor) * lp.size for factor, lp in zip(factors, base, strict=True))
    client = await bench.fresh()
    told = []
    for call in (client.forward, client.forward_backward):
        metrics = (await call(data)).metrics
        if "loss:sum" not in metrics:
            raise Mismatch(
                expected="the metric loss:sum",
                found=f"metrics {sorted(metrics)}",
                diagnosis="the loss is not reported; the SDK's custom losses need it",
            )
        told.append(
            require_near(
                metrics["loss:sum"],
                wanted,
                within=bench.tolerance * count,
                what=f"loss:sum of {call.__name__}",
                expected="−Σ weight·log-probability over all tokens",
                diagnosis="the loss is a mean over tokens, rows or weights instead of a sum",
            )
        )
    return told[-1]


async def _weights(bench: Bench) -> str:
    one, ten = await bench.batch_norm(), await bench.norm(await bench.fresh(), scaled(BATCH, 10.0))
    return require_near(
        ten / one,
        10.0,
        within=10 * RELATIVE,
        what="the gradient's norm for weights × 10, over that for weights × 1,",
        expected="weights × 10 give a gradient × 10",
        diagnosis="weights are normalised away: the gradient is divided by their sum",
    )


async def _rows(bench: Bench) -> str:
    one, four = await bench.batch_norm(), await bench.norm(await bench.fresh(), [*BATCH] * 4)
    return require_near(
        four / one,
        4.0,
        within=4 * RELATIVE,
        what="the gradient's norm for every row 4 times, over that for once,",
        expected="4 times the rows give a gradient × 4",
        diagnosis="the gradient is a mean over rows or tokens instead of a sum",
    )


async def _negative(bench: Bench) -> str:
    wanted = await bench.batch_norm()
    found = await bench.norm(await bench.fresh(), BATCH, scaled(BATCH, -1.0))
    return require_near(
        found / wanted,
        0.0,
        within=RELATIVE,
        what="the norm of a gradient and its negative together, over that of one,",
        expected="weights −1 take back what weights 1 gave",
        diagnosis="negative weights are clamped, made positive or refused: DPO and policy losses need them",
    )


def _one_hot(length: int, position: int) -> NDArray[np.float32]:
    weights = np.zeros(length, dtype=np.float32)
    weights[position] = 1.0
    return weights


async def _mask_value(bench: Bench) -> str:
    base, client, said = await bench.base(), await bench.fresh(), ""
    for position in (4, 0, len(base[0]) - 1):
        data = weighted(BATCH[:1], [_one_hot(len(base[0]), position)])
        found = (await client.forward(data)).metrics["loss:sum"]
        near = {
            f"target {other}": -float(base[0][other])
            for other in (position - 1, position + 1)
            if 0 <= other < len(base[0])
        }
        counted = [name for name, value in near.items() if abs(found - value) <= bench.tolerance]
        said = require_near(
            found,
            -float(base[0][position]),
            within=bench.tolerance,
            what=f"the loss with weight at position {position} alone",
            expected=f"minus the log-probability of target {position}",
            diagnosis=f"the mask is off by one: it counts {counted[0]}"
            if counted
            else "the weights are shifted, or are not those that were sent",
        )
    return said


async def _mask_gradient(bench: Bench) -> str:
    position, (whole,) = 4, BATCH[:1]
    mask = _one_hot(whole.model_input.length, position)

    def changed(*places: int) -> list[Datum]:
        targets = whole.target_tokens.copy()
        for place in places:
            targets[place] = 5 + (targets[place] + 17) % 50
        inputs = {"target_tokens": TensorData(targets), "weights": TensorData(mask.copy())}
        return [Datum(whole.model_input, inputs)]

    back = scaled(changed(), -1.0)
    whole_norm = await bench.norm(await bench.fresh(), changed())
    beside = await bench.norm(await bench.fresh(), changed(position - 1, position + 1), back)
    there = await bench.norm(await bench.fresh(), changed(position), back)
    said = require_near(
        beside / whole_norm,
        0.0,
        within=RELATIVE,
        what=f"with weight at position {position} alone, what other targets do to the gradient, over its norm,",
        expected=f"the gradient depends on target {position} alone",
        diagnosis="the gradient's mask is off by one, whatever the reported loss says",
    )
    if there <= RELATIVE * whole_norm:
        raise Mismatch(
            expected=f"another target {position} gives another gradient",
            found=f"it changes by {there / whole_norm:.2g} of its norm",
            diagnosis="the gradient does not depend on the target under the mask",
        )
    return said


async def _soft(bench: Bench) -> str:
    def pair(datum: Datum) -> Datum:
        targets = np.stack([datum.target_tokens, datum.target_tokens], axis=1)
        weights = np.stack([0.75 * datum.weights, 0.25 * datum.weights], axis=1).astype(np.float32)
        inputs = {"target_tokens": TensorData(targets), "weights": TensorData(weights)}
        return Datum(datum.model_input, inputs)

    wanted = await bench.batch_norm()
    double = [pair(datum) for datum in BATCH]
    found = await bench.norm(await bench.fresh(), double, scaled(BATCH, -1.0))
    return require_near(
        found / wanted,
        0.0,
        within=RELATIVE,
        what="the norm of the difference to the gradient with one target a position, over that norm,",
        expected="two targets a position, the same one with weights 0.75 and 0.25, are as one with weight 1",
        diagnosis="several targets a position are not summed with their weights: soft-target distillation is wrong",
    )


async def _custom(bench: Bench) -> str:
    """Loss 0.1·Σ lp², gradient 0.2·lp: taken back by cross_entropy with exactly these weights."""
    base = await bench.base()

    def squares(data: Sequence[Datum], logprobs: Sequence[NDArray[np.float32]]) -> CustomLoss:
        loss = 0.1 * sum(float((lp.astype(np.float64) ** 2).sum()) for lp in logprobs)
        return CustomLoss(loss=loss, gradients=[0.2 * lp for lp in logprobs], metrics={})

    slopes = weighted(BATCH, [0.2 * lp for lp in base])
    wanted = await bench.norm(await bench.fresh(), slopes)
    client = await bench.fresh()
    value = (await client.forward_backward_custom(BATCH, squares)).metrics["loss:sum"]
    require_near(
        value,
        0.1 * sum(float((lp.astype(np.float64) ** 2).sum()) for lp in base),
        within=0.2 * bench.tolerance * sum(float(np.abs(lp).sum()) for lp in base),
        what="loss:sum of the custom loss 0.1·Σ lp²",
        expected="the value of the custom loss over forward's log-probabilities",
        diagnosis="the custom loss saw other log-probabilities, or its value is not what is reported",
    )
    found = await bench.norm(client, slopes) / wanted
    wrong_sign = abs(found - 2.0) <= 0.1
    return require_near(
        found,
        0.0,
        within=RELATIVE,
        what="the norm of what is left when cross_entropy takes the custom gradient back, over its norm,",
        expected="∂loss/∂logprob reaches the weights as cross_entropy with weights −∂loss/∂logprob does",
        diagnosis="the custom loss's gradient has the wrong sign"
        if wrong_sign
        else "custom gradients are scaled or normalised on their way: a zero-sum loss such as DPO's would explode",
    )


CHECKS = (
    Check(
        id="loss.value",
        title="the loss is −Σ weight·log-probability",
        tolerance=_SUM,
        run=_value,
    ),
    Check(
        id="loss.weights",
        title="weights × 10 give a gradient × 10",
        tolerance=_NORM,
        run=_weights,
        builds_on=("models.repeats",),
    ),
    Check(
        id="loss.rows",
        title="4 times the rows give a gradient × 4",
        tolerance=_NORM,
        run=_rows,
        builds_on=("models.repeats",),
    ),
    Check(
        id="loss.negative",
        title="negative weights take a gradient back",
        tolerance=_NORM,
        run=_negative,
        builds_on=("gradients.accumulate", "gradients.cleared"),
    ),
    Check(
        id="loss.mask",
        title="a weight at position i counts target i in the loss",
        tolerance="tolerance in nats",
        run=_mask_value,
        builds_on=("loss.value",),
    ),
    Check(
        id="loss.mask_gradient",
        title="a weight at position i counts target i in the gradient",
        tolerance=_NORM,
        run=_mask_gradient,
        builds_on=("loss.negative",),
    ),
    Check(
        id="loss.soft_targets",
        title="several weighted targets a position are summed",
        tolerance=_NORM,
        run=_soft,
        builds_on=("loss.negative",),
    ),
    Check(
        id="loss.custom",
        title="a custom loss's gradient is that of cross_entropy with weights −∂loss/∂logprob",
        tolerance=_NORM,
        run=_custom,
        builds_on=("loss.value", "loss.weights", "loss.negative", "loss.mask_gradient"),
        needs=("custom_loss",),
    ),
)
