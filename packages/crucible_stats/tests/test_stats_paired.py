"""Paired differences: hand-worked values, scipy, and what must not change them."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from crucible_ir import DataError
from crucible_stats import paired_difference, signed_rank
from crucible_stats.signed_rank import average_ranks

A = [5.1, 4.9, 5.6, 5.8, 6.0, 5.5, 5.3, 5.7]
B = [4.8, 5.0, 4.7, 5.1, 4.9, 5.2, 4.6, 5.0]

numbers = st.integers(-1000, 1000).map(lambda n: n / 8)
pairs = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=25)


def test_four_pairs_by_hand():
    result = paired_difference([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 4.0, 8.0])
    assert (result.n, result.df, result.mean) == (4, 3, 2.0)
    assert result.sd == pytest.approx(math.sqrt(2))
    assert result.t == pytest.approx(2 / math.sqrt(0.5))
    assert result.cohens_dz == pytest.approx(math.sqrt(2))
    assert result.hedges_g == pytest.approx(math.sqrt(2) * (1 - 3 / 11))
    assert result.interval.low == pytest.approx(2 - 3.182446305 * math.sqrt(0.5))
    assert result.interval.high == pytest.approx(2 + 3.182446305 * math.sqrt(0.5))
    assert result.wilcoxon.p_value == 2 / 2**4
    assert result.bootstrap is None
    assert not result.constant


def test_recorded_values():
    result = paired_difference(B, A)
    assert result.t == pytest.approx(4.2295258468, abs=1e-10)
    assert result.p_value == pytest.approx(0.0038904129, abs=1e-10)
    assert paired_difference(A, B).cohens_dz == pytest.approx(-1.4953632037, abs=1e-10)
    assert (result.wilcoxon.statistic, result.wilcoxon.p_value) == (1.0, 0.015625)


@given(pairs)
def test_the_t_test_equals_scipy(values):
    before, after = np.array(values).T
    assume(np.ptp(after - before) > 0)
    result = paired_difference(before, after)
    expected = stats.ttest_rel(after, before)
    assert result.t == pytest.approx(expected.statistic, rel=1e-9)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-300)
    interval = expected.confidence_interval(0.95)
    assert (result.interval.low, result.interval.high) == pytest.approx(
        (interval.low, interval.high), rel=1e-9, abs=1e-9
    )


@given(pairs, numbers, st.sampled_from([0.25, 2.0, 1024.0]))
def test_shifts_cancel_and_scales_go_through(values, shift, scale):
    before, after = np.array(values).T
    plain = paired_difference(before, after)
    shifted = paired_difference(before + shift, after + shift)
    scaled = paired_difference(scale * before, scale * after)
    assert shifted.mean == pytest.approx(plain.mean)
    assert scaled.mean == pytest.approx(scale * plain.mean)
    assert scaled.interval.low == pytest.approx(scale * plain.interval.low)
    for other in (shifted, scaled):
        assert other.p_value == pytest.approx(plain.p_value)
        assert other.cohens_dz == pytest.approx(plain.cohens_dz)
        assert other.wilcoxon == plain.wilcoxon
        assert other.constant == plain.constant


@given(pairs)
def test_changing_sides_changes_the_sign_alone(values):
    before, after = np.array(values).T
    there, back = paired_difference(before, after), paired_difference(after, before)
    assert back.mean == -there.mean
    assert (back.interval.low, back.interval.high) == pytest.approx(
        (-there.interval.high, -there.interval.low)
    )
    assert back.p_value == there.p_value
    assert back.cohens_dz == -there.cohens_dz
    assert back.hedges_g == -there.hedges_g
    assert back.wilcoxon.p_value == there.wilcoxon.p_value
    assert back.wilcoxon.rank_biserial == pytest.approx(-there.wilcoxon.rank_biserial)


@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_examples_does_not_matter(values, random):
    before = {f"example-{n}": pair[0] for n, pair in enumerate(values)}
    after = {f"example-{n}": pair[1] for n, pair in enumerate(values)}
    keys = list(after)
    random.shuffle(keys)
    assert paired_difference(before, {key: after[key] for key in keys}) == paired_difference(before, after)
    assert paired_difference(list(before.values()), list(after.values())) == paired_difference(before, after)


def test_samples_of_other_examples_are_refused_with_one_of_each():
    with pytest.raises(
        DataError, match=r"1 examples are only before \(such as \['b'\]\), 2 only after \(such as \['c'\]\)"
    ):
        paired_difference({"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0, "d": 3.0})
    with pytest.raises(DataError, match="the other has not"):
        paired_difference({"a": 1.0, "b": 2.0}, [1.0, 2.0])
    with pytest.raises(DataError, match="3 numbers before, 2 after"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ([], [], "before: has 0 numbers, at least 2"),
        ([1.0], [2.0], "before: has 1 number, at least 2"),
        ([1.0, math.nan], [1.0, 2.0], "before: 1 of 2 numbers are not finite .* index 1"),
        ([1.0, 2.0], [math.inf, 2.0], "after: 1 of 2"),
        ([[1.0, 2.0]], [1.0, 2.0], "shape"),
    ],
)
def test_samples_that_cannot_be_judged_are_refused(before, after, says):
    with pytest.raises(DataError, match=says):
        paired_difference(before, after)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.1])
def test_a_confidence_outside_its_range_is_refused(confidence):
    with pytest.raises(DataError, match="confidence"):
        paired_difference(A, B, confidence=confidence)


def test_no_difference_at_all_is_certain_to_be_nothing():
    result = paired_difference(A, A, generator=np.random.default_rng(0))
    assert (result.mean, result.sd, result.t, result.cohens_dz, result.hedges_g) == (0, 0, 0, 0, 0)
    assert (result.p_value, result.wilcoxon.p_value, result.wilcoxon.n) == (1.0, 1.0, 0)
    assert (result.interval.low, result.interval.high) == (0.0, 0.0)
    assert (result.bootstrap.low, result.bootstrap.high) == (0.0, 0.0)
    assert result.constant


@pytest.mark.parametrize("step", [0.1, -0.3, 1e-9])
def test_a_constant_difference_is_exact_in_spite_of_rounding(step):
    before = np.array([0.1, 0.2, 0.3, 0.7, 1.1, 2.3])
    result = paired_difference(before, before + step, generator=np.random.default_rng(0))
    assert result.constant
    assert result.sd == 0.0
    assert result.mean == pytest.approx(step)
    assert result.interval.low == result.interval.high == result.mean
    assert result.bootstrap.low == result.bootstrap.high == result.mean
    assert result.t == result.cohens_dz == result.hedges_g == math.copysign(math.inf, step)
    assert result.p_value == 0.0
    assert result.wilcoxon.p_value == 2 / 2**6


def test_rounding_alone_is_no_difference():
    before = np.array([0.1 + 0.2, 1.1 + 2.2, 0.7 + 0.1])
    result = paired_difference(before, [0.3, 3.3, 0.8])
    assert (result.mean, result.p_value, result.wilcoxon.n) == (0.0, 1.0, 0)


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9))
def test_wilcoxon_equals_the_enumeration_of_all_signs(values):
    differences = np.array(values, dtype=float)
    left = differences[differences != 0]
    ranks = average_ranks(np.abs(left))
    plus = ranks[left > 0].sum()
    smaller = min(plus, ranks.sum() - plus)
    sums = np.zeros(1)
    for rank in ranks:
        sums = np.concatenate([sums, sums + rank])
    expected = min(1.0, 2 * np.mean(sums <= smaller)) if len(left) else 1.0
    result = signed_rank(differences)
    assert result.p_value == pytest.approx(expected, rel=1e-12)
    assert (result.n, result.exact) == (len(left), True)


@pytest.mark.parametrize("n", [12, 40, 199])
def test_wilcoxon_without_ties_equals_scipys_exact_test(n):
    differences = np.random.default_rng(n).normal(0.2, 1, n)
    expected = stats.wilcoxon(differences, method="exact")
    result = signed_rank(differences)
    assert result.statistic == expected.statistic
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_wilcoxon_of_many_tied_differences_equals_scipys_approximation():
    differences = np.random.default_rng(5).integers(-5, 7, 600).astype(float)
    expected = stats.wilcoxon(differences, method="approx")
    result = signed_rank(differences)
    assert result.statistic == expected.statistic
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert not result.exact


def test_ranks_of_equal_values_are_shared():
    assert average_ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4.0, 1.0, 4.0, 2.0, 4.0]
    values = np.random.default_rng(0).integers(0, 9, 50).astype(float)
    assert average_ranks(values).tolist() == stats.rankdata(values).tolist()
