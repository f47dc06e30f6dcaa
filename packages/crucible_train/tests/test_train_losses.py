"""Losses: recorded values and gradients, hand-worked ones, slopes, settings, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crucible_ir.errors import ConfigError, DataError
from crucible_train.losses import LOSSES, cispo, dro, find_loss, gspo, importance_sampling, ppo
from crucible_train.types import Datum, ModelInput, TensorData

Golden = Callable[[str], dict[str, Any]]
POLICY = ("importance_sampling", "ppo", "cispo", "dro", "gspo")
CONFIG: dict[str, dict[str, float]] = {"dro": {"beta": 0.3}}


def datum(targets: Any, **inputs: Any) -> Datum:
    tensors = {name: TensorData.of(np.asarray(v, dtype=np.float64)) for name, v in inputs.items()}
    tensors["target_tokens"] = TensorData.of(np.zeros(np.shape(targets), dtype=np.int64))
    return Datum(ModelInput.from_ints([0] * len(targets)), tensors)


def test_all_53_recorded_values_and_gradients_are_equal(golden: Golden) -> None:
    cases = golden("losses")["cases"]
    functions: dict[str, Callable[..., Any]] = {
        "importance_sampling": importance_sampling,
        "ppo": ppo,
        "cispo": cispo,
        "dro": dro,
        "gspo": gspo,
    }
    policy = 0
    for case in cases:
        logprobs = np.array(case["target_logprobs"])
        through = find_loss(case["loss_fn"]).evaluate(
            logprobs, datum(logprobs, **case["inputs"]), case.get("config")
        )
        assert through.loss == pytest.approx(case["loss_sum"], rel=1e-6)  # datums hold float32
        np.testing.assert_allclose(through.gradient, case["grad_wrt_target_logprobs"], rtol=1e-6, atol=1e-7)
        if case["loss_fn"] in functions:
            policy += 1
            arrays = [np.array(values) for values in case["inputs"].values()]
            found = functions[case["loss_fn"]](logprobs, *arrays, **case["config"])
            assert found.loss == pytest.approx(case["loss_sum"], rel=1e-12)
            np.testing.assert_allclose(
                found.gradient, case["grad_wrt_target_logprobs"], rtol=1e-12, atol=1e-15
            )
    assert (len(cases), policy) == (53, 48)


def test_hand_worked_values() -> None:
    half, double = math.log(0.5), math.log(2.0)
    q, lp, adv = np.array([-1.0, -1.0]), np.array([-1.0 + half, -1.0 + double]), np.array([1.0, 1.0])
    assert importance_sampling(lp, q, adv).loss == pytest.approx(-2.5)
    assert ppo(lp, q, adv).loss == pytest.approx(-(0.5 + 1.2))
    assert ppo(lp, q, -adv).loss == pytest.approx(0.8 + 2.0)
    assert ppo(lp, q, adv).gradient.tolist() == pytest.approx([-0.5, 0.0])
    assert ppo(lp, q, -adv).gradient.tolist() == pytest.approx([0.0, 2.0])
    assert cispo(lp, q, adv).gradient.tolist() == pytest.approx([-0.5, -2.0])
    assert cispo(lp, q, adv, clip_high_threshold=1.5).gradient.tolist() == pytest.approx([-0.5, -1.5])
    assert dro(lp, q, adv, beta=2.0).gradient.tolist() == pytest.approx([-(1 - 2 * half), -(1 - 2 * double)])
    both = np.ones(2)
    assert gspo(lp, q, adv, both).loss == pytest.approx(-2.0)  # the ratios cancel: s = 1
    assert gspo(lp, q, adv, np.array([1.0, 0.0]), clip_low_threshold=0.1).loss == pytest.approx(-1.0)


tokens = st.tuples(st.floats(-5, 0), st.floats(-5, 0), st.floats(-2, 2))


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "dro"])
@given(rows=st.lists(tokens, min_size=1, max_size=6), place=st.integers(0, 5))
def test_the_gradient_is_the_slope_away_from_kinks(
    name: str, rows: list[tuple[float, float, float]], place: int
) -> None:
    lp, q, adv = (np.array(column) for column in zip(*rows, strict=True))
    ratio = np.exp(lp - q)
    assume(np.all(np.abs(ratio - 0.8) > 1e-3) and np.all(np.abs(ratio - 1.2) > 1e-3))
    functions: dict[str, Callable[..., Any]] = {
        "importance_sampling": importance_sampling,
        "ppo": ppo,
        "dro": dro,
    }

    def loss(at: Any) -> Any:
        return functions[name](at, q, adv, **CONFIG.get(name, {}))

    step = np.zeros_like(lp)
    step[place % len(lp)] = 1e-6
    slope = (loss(lp + step).loss - loss(lp - step).loss) / 2e-6
    assert loss(lp).gradient[place % len(lp)] == pytest.approx(slope, rel=1e-4, abs=1e-5)


@given(rows=st.lists(tokens, min_size=1, max_size=6), place=st.integers(0, 5))
def test_the_gradient_of_cispo_is_the_slope_with_its_ratio_held(
    rows: list[tuple[float, float, float]], place: int
) -> None:
    lp, q, adv = (np.array(column) for column in zip(*rows, strict=True))
    held = np.clip(np.exp(lp - q), 0.0, 4.0)
    step = np.zeros_like(lp)
    step[place % len(lp)] = 1e-6
    slope = (-np.sum(held * (lp + step) * adv) + np.sum(held * (lp - step) * adv)) / 2e-6
    assert cispo(lp, q, adv).gradient[place % len(lp)] == pytest.approx(slope, rel=1e-4, abs=1e-5)


@given(rows=st.lists(tokens, min_size=1, max_size=6), place=st.integers(0, 5))
def test_the_gradient_of_gspo_is_the_slope_with_other_tokens_held(
    rows: list[tuple[float, float, float]], place: int
) -> None:
    lp, q, adv = (np.array(column) for column in zip(*rows, strict=True))
    s = math.exp(float(np.mean(lp - q)))
    assume(abs(s - 0.8) > 1e-3 and abs(s - 1.2) > 1e-3)
    i = place % len(lp)

    def at(shift: float) -> float:
        own = s * math.exp(shift)
        return -min(own * adv[i], min(max(own, 0.8), 1.2) * adv[i])

    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    assert gspo(lp, q, adv, np.ones_like(lp)).gradient[i] == pytest.approx(slope, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", POLICY)
def test_on_policy_every_gradient_is_the_negated_advantage(name: str) -> None:
    lp, adv = np.array([-1.0, -2.0, -0.5]), np.array([1.0, -0.5, 0.25])
    found = find_loss(name).evaluate(
        lp, datum(lp, logprobs=lp, advantages=adv, sequence_ratio_mask=np.ones(3)), CONFIG.get(name)
    )
    np.testing.assert_allclose(found.gradient, -adv)


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo", "gspo"])
def test_a_token_without_advantage_counts_for_nothing_even_at_an_infinite_ratio(name: str) -> None:
    lp, q = np.array([-1.0, -1.0]), np.array([-1.0, -5000.0])
    inputs = {"logprobs": q, "advantages": [1.0, 0.0], "sequence_ratio_mask": [1.0, 0.0]}
    found = find_loss(name).evaluate(lp, datum(lp, **inputs))
    assert found.gradient.tolist() == [-1.0, 0.0]
    assert math.isfinite(found.loss)


def test_dro_leaves_the_prompt_alone_where_a_mask_says_so() -> None:
    lp, q, adv = np.array([-3.0, -1.0]), np.array([0.0, -0.5]), np.array([0.0, 1.0])
    assert dro(lp, q, adv, beta=0.5).gradient[0] == pytest.approx(-1.5)
    masked = find_loss("dro").evaluate(
        lp, datum(lp, logprobs=q, advantages=adv, mask=[0.0, 1.0]), {"beta": 0.5}
    )
    assert masked.gradient.tolist() == pytest.approx([0.0, -(1 + 0.25)])


def test_gspo_needs_a_sequence_wherever_something_is_to_be_learned() -> None:
    lp = np.array([-1.0, -2.0])
    assert gspo(lp, lp, np.zeros(2), np.zeros(2)).gradient.tolist() == [0.0, 0.0]
    with pytest.raises(DataError, match="sequence_ratio_mask is 0 everywhere"):
        gspo(lp, lp, np.ones(2), np.zeros(2))


def test_documented_defaults_are_those_recorded(golden: Golden) -> None:
    recorded = golden("losses")["header"]["defaults"]
    for name in ("ppo", "cispo"):
        bounds = {key: value for key, value in recorded[name].items() if key.startswith("clip")}
        assert dict(LOSSES[name].defaults) == bounds
        assert LOSSES[name].check({}) == bounds


def test_dro_names_the_setting_that_has_no_default() -> None:
    with pytest.raises(ConfigError, match=r"loss_config.beta: dro needs beta"):
        LOSSES["dro"].check({})


def test_an_unknown_setting_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'clip_low_threshold'"):
        LOSSES["ppo"].check({"clip_low_treshold": 0.8})
    with pytest.raises(ConfigError, match="it has none"):
        LOSSES["cross_entropy"].check({"beta": 0.8})


@pytest.mark.parametrize("bounds", [(-0.1, 1.0), (1.2, 0.8), (math.nan, 1.0)])
def test_bounds_out_of_order_are_refused(bounds: tuple[float, float]) -> None:
    zero = np.zeros(1)
    with pytest.raises(ConfigError, match="0 ≤ low ≤ high"):
        ppo(zero, zero, zero, clip_low_threshold=bounds[0], clip_high_threshold=bounds[1])


@pytest.mark.parametrize("beta", [-1.0, math.inf, math.nan])
def test_a_beta_that_cannot_be_is_refused(beta: float) -> None:
    zero = np.zeros(1)
    with pytest.raises(ConfigError, match=r"loss_config.beta"):
        dro(zero, zero, zero, beta=beta)


def test_an_unknown_loss_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cross_entropy'"):
        find_loss("cross_entropi")
    with pytest.raises(ConfigError, match="valid: cispo, cross_entropy, dro, gspo"):
        find_loss("zzz")


def test_stable_reinforce_is_refused_by_name_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="stable_reinforce has no public formula"):
        find_loss("stable_reinforce")


def test_a_missing_input_is_named() -> None:
    lp = np.zeros(2)
    with pytest.raises(DataError, match="ppo needs 'advantages'"):
        LOSSES["ppo"].evaluate(lp, datum(lp, logprobs=lp))


def test_shapes_that_differ_and_several_targets_are_refused() -> None:
    with pytest.raises(DataError, match=r"ppo.advantages: advantages of shape \(3,\)"):
        ppo(np.zeros(2), np.zeros(2), np.zeros(3))
    with pytest.raises(DataError, match="only cross_entropy takes"):
        ppo(np.zeros((2, 3)), np.zeros(2), np.zeros(2))
    with pytest.raises(DataError, match=r"loss_fn_inputs.logprobs: logprobs of shape \(2, 1\)"):
        LOSSES["ppo"].evaluate(
            np.zeros(2), datum(np.zeros(2), logprobs=np.zeros((2, 1)), advantages=[1.0, 1.0])
        )
    wide = datum(np.zeros((2, 3)), logprobs=np.zeros((2, 3)), advantages=np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"target_tokens of shape \(2, 3\) for cispo"):
        LOSSES["cispo"].evaluate(np.zeros((2, 3)), wide)
