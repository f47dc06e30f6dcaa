"""Summaries agree with numpy, however the numbers come in."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import DataError
from crucible_telemetry import RunningSummary, percentile, summarize

numbers = st.floats(min_value=-1e6, max_value=1e6)


def running(values):
    summary = RunningSummary()
    for value in values:
        summary.add(value)
    return summary


def test_a_summary_by_hand():
    summary = running([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert (summary.count, summary.mean, summary.min, summary.max) == (8, 5.0, 2.0, 9.0)
    assert summary.variance == pytest.approx(32 / 7)
    assert summary.sd == pytest.approx(math.sqrt(32 / 7))


@given(st.lists(numbers, min_size=2, max_size=60))
def test_the_stream_equals_the_batch(values):
    summary = running(values)
    scale = max(1.0, float(np.max(np.abs(values))))
    assert summary.mean == pytest.approx(np.mean(values), abs=1e-9 * scale)
    assert summary.variance == pytest.approx(np.var(values, ddof=1), rel=1e-9, abs=1e-9 * scale**2)
    assert (summary.min, summary.max) == (min(values), max(values))


@given(st.lists(numbers, max_size=30), st.lists(numbers, max_size=30))
def test_two_merged_streams_equal_one(first, second):
    merged = running(first)
    merged.merge(running(second))
    whole = running(first + second)
    assert merged.count == whole.count
    assert merged.mean == pytest.approx(whole.mean, abs=1e-6)
    if whole.count > 1:
        assert merged.variance == pytest.approx(whole.variance, rel=1e-6, abs=1e-3)
    assert (merged.min, merged.max) == (whole.min, whole.max)


def test_numbers_that_are_not_finite_are_counted_apart():
    summary = running([1.0, math.nan, math.inf, 3.0])
    other = running([math.nan])
    summary.merge(other)
    assert (summary.count, summary.mean, summary.not_finite) == (2, 2.0, 3)
    assert math.isnan(running([1.0]).variance)


@pytest.mark.parametrize(
    ("q", "expected"),
    [(25, 32.5), (50, 55), (75, 77.5), (90, 91), (95, 95.5), (99, 99.1), (0, 10), (100, 100)],
)
def test_percentiles_of_ten_to_a_hundred(q, expected):
    assert percentile([float(n) for n in range(10, 101, 10)], q) == pytest.approx(expected)


@given(st.lists(numbers, min_size=1, max_size=40), st.floats(0, 100))
def test_percentiles_equal_numpy(values, q):
    expected = np.percentile(values, q, method="linear")
    assert percentile(sorted(values), q) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_summary_of_a_list_has_everything():
    summary = summarize([float(n) for n in range(100, 9, -10)])
    assert (summary.count, summary.mean, summary.min, summary.max) == (10, 55.0, 10.0, 100.0)
    assert (summary.p50, summary.p90, summary.p95, summary.p99) == pytest.approx((55.0, 91.0, 95.5, 99.1))
    assert summary.sd == pytest.approx(np.std(np.arange(10, 101, 10), ddof=1))


def test_summaries_of_nothing_or_of_nan_are_refused():
    with pytest.raises(DataError, match="no numbers"):
        summarize([])
    with pytest.raises(DataError, match="1 of 2"):
        summarize([1.0, math.nan])
    with pytest.raises(DataError, match="percentage"):
        percentile([1.0], 101)
