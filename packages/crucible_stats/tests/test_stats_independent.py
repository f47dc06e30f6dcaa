"""Differences of independent samples and of proportions."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from crucible_ir import DataError
from crucible_stats import newcombe_difference, proportion_interval, welch_difference

A = [5.1, 4.9, 5.6, 5.8, 6.0, 5.5, 5.3, 5.7]
B = [4.8, 5.0, 4.7, 5.1, 4.9, 5.2, 4.6, 5.0]
numbers = st.integers(-1000, 1000).map(lambda n: n / 8)
samples = st.lists(numbers, min_size=2, max_size=20)


def test_recorded_values_of_welch():
    result = welch_difference(B, A)
    assert result.t == pytest.approx(3.8680248398, abs=1e-10)
    assert result.df == pytest.approx(10.8996539792, abs=1e-10)
    assert result.p_value == pytest.approx(0.0026610164, abs=1e-10)
    assert (result.interval.low, result.interval.high) == pytest.approx(
        (0.2474453703, 0.9025546297), abs=1e-10
    )
    assert result.cohens_d == pytest.approx(1.9340124199, abs=1e-10)
    assert result.hedges_g == pytest.approx(1.8285208333, abs=1e-10)
    assert result.glass_delta == pytest.approx(2.8311042925, abs=1e-10)
    assert result.mean == pytest.approx(0.575)
    assert (result.n_control, result.n_treatment) == (8, 8)


def test_small_samples_by_hand():
    result = welch_difference([0.0, 2.0], [3.0, 5.0])
    assert (result.mean, result.df) == (3.0, pytest.approx(2.0))
    assert result.t == pytest.approx(3 / math.sqrt(2))
    assert result.cohens_d == result.glass_delta == pytest.approx(3 / math.sqrt(2))


@given(samples, samples)
def test_welch_equals_scipy(first, second):
    assume(np.ptp(first) > 0 and np.ptp(second) > 0)
    result = welch_difference(first, second)
    expected = stats.ttest_ind(second, first, equal_var=False)
    assert result.t == pytest.approx(expected.statistic, rel=1e-9, abs=1e-12)
    assert result.df == pytest.approx(expected.df, rel=1e-9)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-300)
    interval = expected.confidence_interval(0.95)
    assert (result.interval.low, result.interval.high) == pytest.approx(
        (interval.low, interval.high), rel=1e-9, abs=1e-9
    )


@given(samples, samples, numbers, st.sampled_from([0.5, 4.0]))
def test_welch_is_blind_to_shifts_scales_and_sides(first, second, shift, scale):
    plain = welch_difference(first, second)
    moved = welch_difference(scale * np.array(first) + shift, scale * np.array(second) + shift)
    back = welch_difference(second, first)
    assert moved.mean == pytest.approx(scale * plain.mean, abs=1e-9)
    assert moved.p_value == pytest.approx(plain.p_value, rel=1e-6, abs=1e-12)
    assert back.mean == -plain.mean
    assert back.p_value == plain.p_value
    assert back.hedges_g == -plain.hedges_g


def test_samples_without_spread_are_exact():
    same = welch_difference([0.1 + 0.2] * 3, [0.3] * 4)
    assert (same.mean, same.t, same.p_value, same.cohens_d) == (0.0, 0.0, 1.0, 0.0)
    apart = welch_difference([1.0, 1.0], [2.0, 2.0, 2.0])
    assert (apart.mean, apart.p_value, apart.df) == (1.0, 0.0, 3.0)
    assert apart.t == apart.cohens_d == apart.hedges_g == apart.glass_delta == math.inf
    assert apart.interval.low == apart.interval.high == 1.0


def test_one_number_on_a_side_is_refused_by_its_name():
    with pytest.raises(DataError, match="control: has 1 number"):
        welch_difference([1.0], [1.0, 2.0])
    with pytest.raises(DataError, match="treatment: has 1 number"):
        welch_difference([1.0, 2.0], {"a": 1.0})


def test_wilson_by_hand_and_at_the_ends():
    interval = proportion_interval(81, 263)
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    none, all_ = proportion_interval(0, 10), proportion_interval(10, 10)
    z2 = 3.841458820694124
    assert (none.low, none.high) == (0.0, pytest.approx(z2 / (10 + z2)))
    assert (all_.low, all_.high) == (pytest.approx(10 / (10 + z2)), 1.0)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_equals_scipy_and_mirrors(case, confidence):
    k, n = case
    interval = proportion_interval(k, n, confidence=confidence)
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    mirrored = proportion_interval(n - k, n, confidence=confidence)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_newcombes_own_examples(first, second, low, high):
    interval = newcombe_difference(*second, *first)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 20), st.integers(0, 30))
def test_newcombe_stays_within_bounds_and_changes_sign_with_the_sides(k, m):
    there, back = newcombe_difference(k, 20, m, 30), newcombe_difference(m, 30, k, 20)
    assert -1 - 1e-12 <= there.low <= there.estimate <= there.high <= 1 + 1e-12
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_what_is_no_proportion_is_refused(k, n):
    with pytest.raises(DataError, match="is not a proportion"):
        proportion_interval(k, n)
    with pytest.raises(DataError, match="is not a proportion"):
        newcombe_difference(1, 2, k, n)


def test_newcombe_covers_at_least_nearly_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(1500):
        k, m = generator.binomial(40, 0.6), generator.binomial(60, 0.75)
        hits += 0.15 in newcombe_difference(int(k), 40, int(m), 60)
    assert hits / 1500 > 0.93
