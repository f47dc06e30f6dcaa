"""Intervals of a mean: recorded values, scipy, and how often they cover."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from crucible_ir import DataError
from crucible_stats import (
    BootstrapSettings,
    bootstrap_interval,
    mean_interval,
    paired_difference,
    welch_difference,
)

A = [5.1, 4.9, 5.6, 5.8, 6.0, 5.5, 5.3, 5.7]
numbers = st.integers(-1000, 1000).map(lambda n: n / 8)


def test_the_recorded_interval_of_a_mean():
    interval = mean_interval(A)
    assert (interval.low, interval.high) == pytest.approx((5.1797174310, 5.7952825690), abs=1e-10)
    assert (interval.estimate, interval.confidence, interval.method) == (pytest.approx(5.4875), 0.95, "t")
    assert 5.5 in interval
    assert 5.9 not in interval


def test_two_numbers_by_hand():
    interval = mean_interval([1.0, 3.0])
    assert (interval.low, interval.high) == pytest.approx((2 - 12.7062047364, 2 + 12.7062047364), abs=1e-9)


@given(st.lists(numbers, min_size=2, max_size=30), st.floats(0.5, 0.999))
def test_the_interval_of_a_mean_equals_scipy(values, confidence):
    interval = mean_interval(values, confidence=confidence)
    se = stats.sem(values)
    if se == 0:
        assert interval.low == interval.high == interval.estimate
    else:
        low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), se)
        assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_bootstrap_equals_scipys_draw_for_draw(method, seed):
    values = np.random.default_rng(99).exponential(size=23)
    ours = bootstrap_interval(
        values, np.random.default_rng(seed), settings=BootstrapSettings(resamples=2000, method=method)
    )
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method=method, random_state=np.random.default_rng(seed)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert ours.method == method


def test_blocks_do_not_change_what_is_drawn(monkeypatch):
    values = np.random.default_rng(3).normal(size=31)
    whole = bootstrap_interval(values, np.random.default_rng(1))
    monkeypatch.setattr("crucible_stats.intervals._CELLS", 1000)
    assert bootstrap_interval(values, np.random.default_rng(1)) == whole


def test_the_same_generator_state_gives_the_same_interval_and_another_a_near_one():
    values = np.random.default_rng(3).normal(size=200)
    one, same, other = (bootstrap_interval(values, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert one == same
    assert one != other
    assert other.low == pytest.approx(one.low, abs=0.02)


def test_the_bootstrap_of_another_statistic():
    values = np.random.default_rng(3).exponential(size=101)
    interval = bootstrap_interval(values, np.random.default_rng(0), statistic=lambda x: np.median(x, axis=-1))
    assert interval.low < np.median(values) == interval.estimate < interval.high


def test_where_the_correction_does_not_exist_percentiles_stand_in_and_say_so():
    values = [0.0, 1.0, 2.0, 3.0]
    interval = bootstrap_interval(
        values, np.random.default_rng(0), statistic=lambda x: np.max(x, axis=-1) * 0 + 9
    )
    assert (interval.low, interval.high) == (9.0, 9.0)
    above = bootstrap_interval(
        values, np.random.default_rng(0), statistic=lambda x: x.mean(axis=-1) + (10 if x.ndim > 1 else 0)
    )
    assert above.method == "percentile"


def test_a_constant_has_an_interval_of_no_width():
    interval = bootstrap_interval([0.1 + 0.2, 0.3, 0.3], np.random.default_rng(0))
    assert interval.low == interval.high == interval.estimate == pytest.approx(0.3)


def test_too_few_resamples_or_numbers_are_refused():
    with pytest.raises(DataError, match="resamples"):
        bootstrap_interval(A, np.random.default_rng(0), settings=BootstrapSettings(resamples=99))
    with pytest.raises(DataError, match="at least 2"):
        bootstrap_interval([1.0], np.random.default_rng(0))
    with pytest.raises(DataError, match="at least 2"):
        mean_interval([1.0])


def share_covered(make, trials, seed):
    generator = np.random.default_rng(seed)
    return sum(bool(make(generator)) for _ in range(trials)) / trials


def within(share, trials, nominal=0.95):
    return abs(share - nominal) < 3.5 * math.sqrt(nominal * (1 - nominal) / trials)


@pytest.mark.parametrize("n", [3, 10, 50])
def test_t_intervals_of_paired_normal_differences_cover_as_often_as_they_say(n):
    def covers(generator):
        before = generator.normal(5, 2, n)
        after = before + 0.3 + generator.normal(0, 1, n)
        return 0.3 in paired_difference(before, after).interval

    assert within(share_covered(covers, 1500, n), 1500)


def test_welch_intervals_cover_with_unequal_variances_and_sizes():
    def covers(generator):
        return 1.0 in welch_difference(generator.normal(0, 1, 6), generator.normal(1, 4, 15)).interval

    assert within(share_covered(covers, 1500, 1), 1500)


def test_the_bootstrap_covers_nearly_as_often_as_it_says_on_skewed_numbers():
    settings = BootstrapSettings(resamples=600)

    def covers(generator):
        return 1.0 in bootstrap_interval(generator.exponential(size=40), generator, settings=settings)

    assert 0.90 < share_covered(covers, 500, 2) < 0.98


@pytest.mark.parametrize("n", [4, 12, 30])
def test_equal_arms_are_called_different_as_seldom_as_alpha_says(n):
    generator = np.random.default_rng(n)
    trials = 1500
    false = {"t": 0, "wilcoxon": 0, "welch": 0}
    for _ in range(trials):
        first, second = generator.normal(size=n), generator.normal(size=n)
        paired = paired_difference(first, second)
        false["t"] += paired.p_value < 0.05
        false["wilcoxon"] += paired.wilcoxon.p_value < 0.05
        false["welch"] += welch_difference(first, second).p_value < 0.05
    limit = 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / trials)
    assert {name: count / trials <= limit for name, count in false.items()} == dict.fromkeys(false, True)
    assert false["t"] / trials > 0.02
