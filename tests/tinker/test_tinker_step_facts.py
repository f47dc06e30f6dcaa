"""The comparison of recipes sees what differs between two recorded runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_train.ports import Handle
from crucible_train.types import (
    AdamParams,
    Datum,
    ForwardBackwardOutput,
    LoraConfig,
    ModelInput,
    OptimStepOutput,
    TensorData,
)

sys.path[:0] = [str(Path(__file__).parent)]

from engine_record import Pass, RecordedRun, Step  # noqa: E402
from step_facts import WITHIN, beyond, compared, metrics_compared  # noqa: E402


def datum(*tokens: int, weight: float = 1.0) -> Datum:
    weights = np.full(len(tokens) - 1, weight, dtype=np.float32)
    targets = np.array(tokens[1:], dtype=np.int64)
    inputs = {"weights": TensorData(weights), "target_tokens": TensorData(targets)}
    return Datum(ModelInput.from_ints(tokens[:-1]), inputs)


def step(*data: Datum, loss: float = 3.0, rate: float = 1e-3, gradient: float = 2.0) -> Step:
    outputs = tuple(
        {"logprobs": TensorData(np.full(one.model_input.length, -0.5, dtype=np.float32))} for one in data
    )
    output = ForwardBackwardOutput(loss_fn_outputs=outputs, metrics={"loss:sum": loss})
    one = Pass(loss_fn="cross_entropy", config={}, data=list(data), output=Handle.completed(output))
    done = Handle.completed(OptimStepOutput(metrics={"unclipped_grad_l2:mean": gradient}))
    return Step(passes=[one], params=AdamParams(learning_rate=rate), output=done)


def run(*steps: Step, rank: int = 8) -> RecordedRun:
    return RecordedRun(base_model="m", lora=LoraConfig(rank=rank), steps=list(steps))


USUAL = (datum(1, 2, 3), datum(4, 5))


def test_equal_runs_are_equal_in_whatever_order_their_datums_were_sent() -> None:
    figures = compared(run(step(*USUAL), step(*USUAL)), run(step(*USUAL), step(*reversed(USUAL))))
    assert (figures["optimiser_steps"], figures["equal_batches"], figures["in_the_same_order"]) == (2, 2, 1)
    assert set(figures["apart"].values()) == {0.0}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: run(step(datum(1, 2, 9), USUAL[1])), "step 0: tokens"),
        (lambda: run(step(USUAL[0])), "step 0: tokens"),
        (lambda: run(step(*USUAL, rate=2e-3)), "step 0: optimiser"),
        (lambda: run(step(*USUAL), step(*USUAL)), "2"),
        (lambda: run(step(*USUAL), rank=4), "rank=4"),
        (lambda: run(step(*USUAL, loss=float("nan"))), "step 0: not finite"),
    ],
)
def test_what_must_be_equal_and_is_not_is_an_error(other: Callable[[], RecordedRun], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        compared(run(step(*USUAL)), other())


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (step(*USUAL, loss=3.1), "loss"),
        (step(*USUAL, gradient=2.1), "gradient"),
        (step(datum(1, 2, 3, weight=0.9), USUAL[1]), "given weights"),
    ],
)
def test_numbers_that_differ_are_measured(other: Step, what: str) -> None:
    apart = compared(run(step(*USUAL)), run(other))["apart"]
    assert apart.pop(what) > WITHIN
    assert set(apart.values()) == {0.0}


def soft(targets: list[list[int]], weights: list[list[float]]) -> Datum:
    inputs = {
        "weights": TensorData(np.array(weights, dtype=np.float32)),
        "target_tokens": TensorData(np.array(targets, dtype=np.int64)),
    }
    return Datum(ModelInput.from_ints(range(len(targets))), inputs)


def soft_step(targets: list[list[int]], weights: list[list[float]]) -> Step:
    one = step(soft(targets, weights))
    outputs = ({"logprobs": TensorData(np.full(np.shape(targets), -0.5, dtype=np.float32))},)
    output = ForwardBackwardOutput(loss_fn_outputs=outputs, metrics={"loss:sum": 3.0})
    one.passes = [replace(one.passes[0], output=Handle.completed(output))]
    return one


def test_equally_likely_targets_may_change_places_and_the_last_may_be_another() -> None:
    many = [[7, 8, 9]] * 2000, [[0.6, 0.2, 0.2]] * 2000
    turned = [[7, 9, 8], *many[0][1:]], many[1]
    figures = compared(run(soft_step(*many)), run(soft_step(*turned)))
    assert (figures["positions_with_other_targets"], figures["apart"]["given weights"]) == (0, 0.0)
    other = [[7, 8, 5], *many[0][1:]], many[1]
    figures = compared(run(soft_step(*many)), run(soft_step(*other)))
    assert (figures["positions_with_other_targets"], figures["apart"]["given weights"]) == (1, 0.0)
    uneven = [[7, 8, 5], *many[0][1:]], [[0.7, 0.2, 0.1], *many[1][1:]]
    assert compared(run(soft_step(*many)), run(soft_step(*uneven)))["apart"]["given weights"] > 0.09
    with pytest.raises(AssertionError, match="3 of 2000 positions have other targets"):
        compared(run(soft_step(*many)), run(soft_step([[7, 8, 5]] * 3 + many[0][3:], many[1])))


def test_only_norms_of_gradients_may_differ_by_more() -> None:
    assert beyond({"loss": 5e-5, "gradient": 5e-4, "unclipped_grad_l2:mean": 9e-4}) == {}
    assert beyond({"loss": 5e-4, "gradient": 5e-3}) == {"loss": 5e-4, "gradient": 5e-3}
    assert set(beyond({"loss": float("nan")})) == {"loss"}


def test_another_loss_function_is_an_error() -> None:
    changed = step(*USUAL)
    changed.passes = [replace(changed.passes[0], loss_fn="ppo")]
    with pytest.raises(AssertionError, match="step 0: loss function"):
        compared(run(step(*USUAL)), run(changed))


def test_settings_of_a_loss_may_be_named_or_left_to_the_default() -> None:
    def with_settings(**config: float) -> RecordedRun:
        made = step(*USUAL)
        made.passes = [replace(made.passes[0], loss_fn="ppo", config=config)]
        return run(made)

    assert compared(with_settings(), with_settings(clip_low_threshold=0.8))["equal_batches"] == 1
    with pytest.raises(AssertionError, match="step 0: its settings"):
        compared(with_settings(), with_settings(clip_low_threshold=0.7))


def test_metrics_are_held_against_each_other_where_both_have_them() -> None:
    theirs: dict[int, dict[str, Any]] = {0: {"a": 2.0, "b": 1.0, "time/x": 9.0}, 1: {"a": 2.0, "c": 5.0}}
    ours: dict[int, dict[str, Any]] = {0: {"a": 2.0, "b": 1.5, "time/x": 1.0}, 1: {"a": 3.0, "c": 6.0}}
    figures = metrics_compared(theirs, ours, {"c": "a reason"})
    assert (figures["names"], figures["values"]) == (["a", "b"], 3)
    assert figures["apart"] == {"a": 0.5, "b": 0.5}
    assert figures["final"]["a"] == [2.0, 3.0]
    assert metrics_compared(theirs, ours, {"c": "", "a@1": ""})["apart"] == {"a": 0.0, "b": 0.5}
    nan = float("nan")
    assert metrics_compared({0: {"a": nan, "b": 1.0}}, {0: {"a": nan, "b": nan}}, {})["apart"] == {
        "a": 0.0,
        "b": float("inf"),
    }
