"""Power, the n it takes, and the smallest effect that is seen."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crucible_ir import DataError
from crucible_stats import minimum_detectable_effect, paired_difference, required_n, t_test_power
from crucible_stats.power import _above


@pytest.mark.parametrize(
    ("alternative", "expected"),
    [("two_sided", 0.4778965208), ("larger", 0.6060253279), ("smaller", 0.0001860693)],
)
def test_recorded_power_of_two_groups(alternative, expected):
    power = t_test_power(0.5, 30, design="independent", alternative=alternative)
    assert power == pytest.approx(expected, abs=1e-9)


def test_recorded_n_of_two_groups_is_64_not_the_63_of_the_normal_shortcut():
    assert required_n(0.5, design="independent") == 64
    assert t_test_power(0.5, 63.766, design="independent") == pytest.approx(0.8, abs=1e-5)


def test_without_an_effect_the_power_is_alpha():
    for design in ("paired", "independent"):
        for alternative in ("two_sided", "larger", "smaller"):
            power = t_test_power(0.0, 12, design=design, alpha=0.03, alternative=alternative)
            assert power == pytest.approx(0.03)


@given(st.floats(0.01, 3), st.integers(2, 200), st.floats(0.001, 0.2))
@settings(max_examples=40, deadline=None)
def test_power_equals_the_mean_over_all_spreads_and_is_symmetric(effect, n, alpha):
    edge = stats.t.isf(alpha / 2, n - 1)
    spreads = np.sqrt(stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, n - 1) / (n - 1))
    shift = effect * math.sqrt(n)
    expected = np.mean(stats.norm.sf(edge * spreads - shift) + stats.norm.cdf(-edge * spreads - shift))
    power = t_test_power(effect, n, alpha=alpha)
    assert power == pytest.approx(expected, abs=2e-5)
    assert t_test_power(-effect, n, alpha=alpha) == pytest.approx(power, abs=1e-12)
    assert t_test_power(effect, n + 1, alpha=alpha) >= power - 1e-9


@given(
    st.integers(2, 500), st.floats(0.01, 50), st.floats(0.2, 0.99), st.sampled_from(["paired", "independent"])
)
@settings(max_examples=25, deadline=None)
def test_the_minimum_effect_has_exactly_the_power_asked_for(n, sd, power, design):
    effect = minimum_detectable_effect(n, sd, power, design=design)
    assert t_test_power(effect / sd, n, design=design) == pytest.approx(power, abs=1e-6)
    assert minimum_detectable_effect(n, 2 * sd, power, design=design) == pytest.approx(2 * effect)


def test_the_needed_n_is_the_least_one_that_is_enough():
    for effect in (0.2, 0.5, 1.5, 10.0):
        n = required_n(effect, power=0.9)
        assert t_test_power(effect, n) >= 0.9
        assert n == 2 or t_test_power(effect, n - 1) < 0.9


def test_the_power_of_a_simulated_paired_test_is_the_computed_one():
    generator = np.random.default_rng(0)
    trials, n = 1500, 20
    hits = sum(
        paired_difference(np.zeros(n), generator.normal(0.6, 1, n)).p_value < 0.05 for _ in range(trials)
    )
    expected = t_test_power(0.6, n)
    assert hits / trials == pytest.approx(expected, abs=3.5 * math.sqrt(expected * (1 - expected) / trials))


def test_no_spread_means_any_effect_is_seen():
    assert minimum_detectable_effect(10, 0.0) == 0.0


def test_far_tails_give_a_probability_all_the_same():
    for effect, n in ((100.0, 30), (50.0, 10**6), (1e-6, 10**6), (1e4, 2)):
        assert 0 <= t_test_power(effect, n) <= 1
    assert t_test_power(100.0, 30) == pytest.approx(1)
    assert _above(2.0, 10, 1e9) == pytest.approx(1)


@pytest.mark.parametrize("df", [1, 2, 7, 60, 5000])
@pytest.mark.parametrize("edge", [0.0, 1.7, 4.5])
@pytest.mark.parametrize("shift", [0.0, 0.3, 2.5, 4.0])
def test_the_tail_equals_scipys_where_scipy_has_one(df, edge, shift):
    with np.errstate(all="ignore"):
        expected = stats.nct.sf(edge, df, shift)
    assert _above(edge, df, shift) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: t_test_power(0.5, 1), "n is 1"),
        (lambda: t_test_power(0.5, 10, alpha=0.0), "alpha"),
        (lambda: required_n(0.0), "no number of examples"),
        (lambda: required_n(0.5, alternative="smaller"), "direction"),
        (lambda: required_n(0.5, power=1.0), "power"),
        (lambda: minimum_detectable_effect(10, -1.0), "sd is -1"),
        (lambda: minimum_detectable_effect(10, math.nan), "sd is nan"),
        (lambda: minimum_detectable_effect(10, 1.0, 0.05), "not above alpha"),
        (lambda: minimum_detectable_effect(1, 1.0), "n is 1"),
    ],
)
def test_what_has_no_answer_is_refused(call, says):
    with pytest.raises(DataError, match=says):
        call()
