"""Checks of the optimiser against AdamW, by pairs of ways that lead AdamW to the same weights.

At weights that do not move, gradients of scaled data are scaled: sᵢ·g. Adam's moments after them are M·g and V·g²
with M and V known from s, β₁, β₂ alone, so that the step rate·M·g/(√V·|g| + eps) is also the first step of a fresh
optimiser on data scaled by √V with the learning rate rate·M/√V. No weight has to be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from crucible_kitchen.conformance.bench import STILL, Bench
from crucible_kitchen.conformance.check import Check, Mismatch, NotRun
from crucible_kitchen.conformance.compare import Logprobs, distance, require_near, require_same
from crucible_kitchen.conformance.material import BATCH, scaled
from crucible_train.types import AdamParams

__all__ = ["CHECKS", "moments"]

_ALIKE = 0.02
"""Part of a step's movement by which two ways to the same weights may differ."""
_TOLERANCE = "tolerance in nats + 2 % of the movement"
_DOWNHILL = 0.3
"""Nats of the batch's loss that the step of ``optimizer.downhill`` should take off."""
_NOTHING = 1e8
"""An eps beside which every gradient is nothing."""


def moments(scales: Sequence[float], beta1: float, beta2: float) -> tuple[float, float]:
    """Adam's M and √V, bias corrected, after gradients s·g in this order.

    Source: Kingma & Ba 2015, algorithm 1.
    """
    first = second = 0.0
    for scale in scales:
        first = beta1 * first + (1 - beta1) * scale
        second = beta2 * second + (1 - beta2) * scale**2
    count = len(scales)
    return first / (1 - beta1**count), float(np.sqrt(second / (1 - beta2**count)))


async def _require_alike(
    bench: Bench, found: Logprobs, wanted: Logprobs, *, what: str, expected: str, diagnosis: str
) -> str:
    moved = await bench.moved(wanted)
    within = bench.tolerance + _ALIKE * moved
    told = require_same(found, wanted, within=within, what=what, expected=expected, diagnosis=diagnosis)
    return f"{told} after a movement of {moved:.2g}"


async def _above(bench: Bench) -> float:
    """An eps well above every entry of the gradient of ``BATCH``, beside which Adam is plain descent."""
    try:
        return 10.0 * await bench.batch_norm()
    except NotRun:
        return 1e4


async def _downhill(bench: Bench) -> str:
    """With eps far above the gradient g, a first step is −(rate/eps)·g, and the loss changes by −(rate/eps)·‖g‖²."""
    norm = await bench.batch_norm()
    eps = 1e3 * norm
    params = AdamParams(learning_rate=_DOWNHILL / norm**2 * eps, eps=eps)
    down, up = [await bench.after((scaled(BATCH, sign), params)) for sign in (1.0, -1.0)]
    found = 0.5 * (sum(float(one.sum()) for one in down) - sum(float(one.sum()) for one in up))
    return require_near(
        found,
        _DOWNHILL,
        within=0.15 * _DOWNHILL + 2 * bench.tolerance,
        what="what a small step takes off the batch's loss, in nats,",
        expected="a step goes down the gradient whose norm is reported",
        diagnosis="eps is ignored, the reported norm is not that of the gradient of −Σ weight·log-probability "
        "(normalised, or taken after clipping), or a step goes another way",
    )


async def _first_step(bench: Bench) -> str:
    told = ""
    for eps in (1e-8, await _above(bench)):
        params = await bench.params(eps)
        usual = await bench.stepped(eps)
        other = await bench.after((BATCH, replace(params, beta1=0.5, beta2=0.5)))
        told = await _require_alike(
            bench,
            usual,
            other,
            what=f"log-probabilities after one step with betas 0.9, 0.95 and with 0.5, 0.5 (eps {eps:.2g})",
            expected="with bias correction the first step does not depend on the betas",
            diagnosis="the optimiser has no bias correction, or corrects one moment alone",
        )
    return told


async def _betas(bench: Bench) -> str:
    scales, told = (10.0, 0.1), ""
    for beta1, beta2 in ((0.3, 0.4), (0.9, 0.95)):
        params = replace(await bench.params(), beta1=beta1, beta2=beta2)
        mean, spread = moments(scales, beta1, beta2)
        still = replace(params, learning_rate=0.0)
        found = await bench.after((scaled(BATCH, scales[0]), still), (scaled(BATCH, scales[1]), params))
        once = replace(params, learning_rate=params.learning_rate * mean / spread)
        told = await _require_alike(
            bench,
            found,
            await bench.after((scaled(BATCH, spread), once)),
            what=f"log-probabilities after gradients 10·g and 0.1·g with betas {beta1}, {beta2}, and after the one "
            "step that AdamW makes of them,",
            expected=f"moments with the betas of the call: {mean:.4g}·g and ({spread:.4g}·g)²",
            diagnosis="the betas of the call are ignored, swapped, or moments are forgotten between steps",
        )
    return told


async def _epsilon(bench: Bench) -> str:
    eps = await _above(bench)
    params = await bench.params(eps)
    once = await bench.stepped(eps)
    larger = await bench.after((scaled(BATCH, 10.0), replace(params, eps=10 * eps)))
    told = await _require_alike(
        bench,
        larger,
        once,
        what="log-probabilities after a step with weights × 10 and eps × 10, and with neither,",
        expected="rate·g/(|g| + eps) stays the same when g and eps grow together",
        diagnosis="eps stands inside the square root, is not the one that was sent, or weights are normalised away",
    )
    twice = replace(params, eps=2 * eps, learning_rate=2 * params.learning_rate)
    gap, moved = distance(await bench.after((BATCH, twice)), once), await bench.moved(once)
    if not gap <= bench.tolerance + 0.15 * moved:
        raise Mismatch(
            expected="beside a large eps, eps × 2 and the learning rate × 2 give the same step within 15 %",
            found=f"log-probabilities differ by {gap:.2g} nats after a movement of {moved:.2g}",
            diagnosis="eps is ignored",
        )
    return told


async def _clip(bench: Bench) -> str:
    norm = await bench.batch_norm()
    eps = await _above(bench)
    params = await bench.params(eps)
    quarter = await bench.after(
        (scaled(BATCH, 0.25), replace(params, learning_rate=4 * params.learning_rate))
    )
    clipped = replace(params, learning_rate=4 * params.learning_rate, grad_clip_norm=norm / 4)
    told = await _require_alike(
        bench,
        await bench.after((BATCH, clipped)),
        quarter,
        what="log-probabilities after a step with the gradient clipped to a quarter of its norm, and with weights × ¼,",
        expected="grad_clip_norm scales the whole gradient down to that norm",
        diagnosis="grad_clip_norm is ignored, or clips each value or each layer by itself",
    )
    loose = replace(params, grad_clip_norm=4 * norm)
    await _require_alike(
        bench,
        await bench.after((BATCH, loose)),
        await bench.stepped(eps),
        what="log-probabilities after a step with a clip at 4 times the gradient's norm, and without one,",
        expected="a gradient below grad_clip_norm stays as it is",
        diagnosis="every gradient is scaled to grad_clip_norm, also smaller ones",
    )
    return told


async def _decay(bench: Bench) -> str:
    first, nothing = await bench.params(), scaled(BATCH, 1e-6)

    async def decayed(*shares: float) -> Logprobs:
        steps = [
            (nothing, AdamParams(learning_rate=0.5, eps=_NOTHING, weight_decay=share / 0.5))
            for share in shares
        ]
        return await bench.after((BATCH, first), *steps)

    moved = await bench.moved(await decayed())
    told = require_same(
        await decayed(1.0),
        await bench.base(),
        within=bench.tolerance + _ALIKE * moved,
        what="log-probabilities after all weights decayed to 0, and those of the base model,",
        expected="learning_rate × weight_decay = 1 takes the adapter back to nothing: decay is decoupled",
        diagnosis="weight decay is ignored, added to the gradient (Adam with L2), or not multiplied by the rate",
    )
    require_same(
        await decayed(0.5, 0.5),
        await decayed(0.75),
        within=bench.tolerance + _ALIKE * moved,
        what="log-probabilities after decay by ½ twice and by ¾ once",
        expected="each step multiplies weights by 1 − learning_rate × weight_decay",
        diagnosis="weight decay does not shrink weights in proportion",
    )
    return f"{told} after a movement of {moved:.2g}"


async def _settings(bench: Bench) -> str:
    """The settings of a step are those of its call, not those of the first call."""
    params = await bench.params()
    found = await bench.after((BATCH, STILL), (BATCH, params))
    return await _require_alike(
        bench,
        found,
        await bench.stepped(),
        what="log-probabilities after a step of learning rate 0 and a real one, and after the real one alone,",
        expected="two equal gradients give the step of one",
        diagnosis="the settings of the first optim_step stay, or bias correction counts steps wrongly",
    )


_ROUTES = ("models.learns", "gradients.cleared", "models.repeats")

CHECKS = (
    Check(
        id="optimizer.first_step",
        title="bias correction: the first step does not depend on the betas",
        tolerance=_TOLERANCE,
        run=_first_step,
        builds_on=_ROUTES,
    ),
    Check(
        id="optimizer.settings",
        title="each step obeys its own settings",
        tolerance=_TOLERANCE,
        run=_settings,
        builds_on=(*_ROUTES, "optimizer.first_step"),
    ),
    Check(
        id="optimizer.betas",
        title="moments follow AdamW with the betas of the call",
        tolerance=_TOLERANCE,
        run=_betas,
        builds_on=(*_ROUTES, "loss.weights", "optimizer.first_step"),
    ),
    Check(
        id="optimizer.epsilon",
        title="eps stands beside the square root and is obeyed",
        tolerance=_TOLERANCE,
        run=_epsilon,
        builds_on=(*_ROUTES, "loss.weights"),
    ),
    Check(
        id="optimizer.downhill",
        title="a step goes down the gradient whose norm is reported",
        tolerance="15 % of the expected change",
        run=_downhill,
        builds_on=(
            *_ROUTES,
            "optimizer.first_step",
            "optimizer.epsilon",
            "loss.value",
            "loss.weights",
            "loss.negative",
        ),
    ),
    Check(
        id="optimizer.clip",
        title="grad_clip_norm scales the gradient to that norm",
        tolerance=_TOLERANCE,
        run=_clip,
        builds_on=(*_ROUTES, "loss.weights", "optimizer.downhill"),
    ),
    Check(
        id="optimizer.decay",
        title="weight decay is decoupled and multiplied by the learning rate",
        tolerance=_TOLERANCE,
        run=_decay,
        builds_on=(*_ROUTES, "optimizer.epsilon"),
    ),
)
