"""What every MetricsStore promises."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import ClassVar

import pytest

from crucible_ir import IntegrityError, MetricRow
from crucible_train.ports import MetricsStore

__all__ = ["MetricsStoreContract"]


def _row(step: int, **metrics: float) -> MetricRow:
    return MetricRow(step=step, time_s=step / 7, metrics=metrics or {"train/nll": 1 / (step + 3)})


class MetricsStoreContract:
    """Inherit it and give ``open_store``: each call opens the same storage anew.

    A noop says ``keeps_rows = False``, a store of one process's memory says ``survives_reopening = False``.
    """

    keeps_rows: ClassVar[bool] = True
    survives_reopening: ClassVar[bool] = True

    @pytest.fixture
    def open_store(self) -> Callable[[], MetricsStore]:
        """Opens the store under test."""
        raise NotImplementedError

    def kept(self, rows: list[MetricRow]) -> list[MetricRow]:
        """What a reading gives after ``rows`` were logged."""
        return rows if self.keeps_rows else []

    def test_it_fits_the_port(self, open_store: Callable[[], MetricsStore]) -> None:
        store = open_store()
        assert isinstance(store, MetricsStore)
        store.close()

    def test_rows_come_back_in_logged_order_bit_for_bit(self, open_store: Callable[[], MetricsStore]) -> None:
        store = open_store()
        rows = [_row(2, a=0.1 + 0.2, b=-0.0), _row(0, a=5e-324), _row(1, c=1.7976931348623157e308), _row(1)]
        for row in rows:
            store.log("run", row)
        back = store.read("run")
        assert back == self.kept(rows)
        assert [repr(r.metrics) for r in back] == [repr(r.metrics) for r in self.kept(rows)]
        store.close()

    def test_nan_and_infinities_stay_visible(self, open_store: Callable[[], MetricsStore]) -> None:
        store = open_store()
        store.log("run", _row(0, a=math.nan, b=math.inf, c=-math.inf))
        shown = [{name: repr(value) for name, value in row.metrics.items()} for row in store.read("run")]
        assert shown == ([{"a": "nan", "b": "inf", "c": "-inf"}] if self.keeps_rows else [])
        store.close()

    def test_names_of_any_language_and_missing_times_are_kept(
        self, open_store: Callable[[], MetricsStore]
    ) -> None:
        store = open_store()
        row = MetricRow(step=0, metrics={'größe "x"\n': 1.0, "損失": 2.0})
        store.log("run", row)
        assert store.read("run") == self.kept([row])
        store.close()

    def test_after_step_leaves_out_that_step_and_those_before(
        self, open_store: Callable[[], MetricsStore]
    ) -> None:
        store = open_store()
        rows = [_row(step) for step in range(5)]
        for row in rows:
            store.log("run", row)
        assert store.read("run", after_step=2) == self.kept(rows[3:])
        assert store.read("run", after_step=4) == []
        store.close()

    def test_runs_do_not_see_each_others_rows(self, open_store: Callable[[], MetricsStore]) -> None:
        store = open_store()
        store.log("one", _row(0, a=1.0))
        store.log("two", _row(0, a=2.0))
        assert store.read("one") == self.kept([_row(0, a=1.0)])
        assert store.read("two") == self.kept([_row(0, a=2.0)])
        assert store.read("three") == []
        store.close()

    def test_truncate_drops_exactly_the_rows_after_the_position(
        self, open_store: Callable[[], MetricsStore]
    ) -> None:
        store = open_store()
        before, after = [_row(step) for step in range(3)], [_row(step) for step in range(3, 6)]
        for row in before:
            store.log("run", row)
        store.log("other", _row(9))
        position = store.position("run")
        for row in after:
            store.log("run", row)
        store.truncate("run", position)
        assert store.read("run") == self.kept(before)
        assert store.read("other") == self.kept([_row(9)])
        assert store.position("run") == position
        store.log("run", _row(3, again=1.0))
        assert store.read("run") == self.kept([*before, _row(3, again=1.0)])
        store.close()

    def test_a_run_without_rows_can_be_truncated_to_its_start(
        self, open_store: Callable[[], MetricsStore]
    ) -> None:
        store = open_store()
        start = store.position("run")
        store.truncate("run", start)
        store.log("run", _row(0))
        store.truncate("run", start)
        assert store.read("run") == []
        store.close()

    def test_truncating_to_rows_that_are_gone_is_refused(
        self, open_store: Callable[[], MetricsStore]
    ) -> None:
        store = open_store()
        for step in range(3):
            store.log("run", _row(step))
        position = store.position("run")
        store.truncate("run", 0)
        if self.keeps_rows:
            with pytest.raises(IntegrityError):
                store.truncate("run", position)
        else:
            assert position == 0
        store.close()

    def test_a_position_holds_over_reopening(self, open_store: Callable[[], MetricsStore]) -> None:
        first = open_store()
        first.log("run", _row(0))
        position = first.position("run")
        first.log("run", _row(1))
        first.close()
        second = open_store()
        if self.keeps_rows and self.survives_reopening:
            assert second.read("run") == [_row(0), _row(1)]
            second.truncate("run", position)
            second.log("run", _row(1, b=2.0))
            assert second.read("run") == [_row(0), _row(1, b=2.0)]
        else:
            assert second.read("run") == []
        second.close()

    def test_another_handle_sees_flushed_rows(self, open_store: Callable[[], MetricsStore]) -> None:
        writer, reader = open_store(), open_store()
        writer.log("run", _row(0))
        writer.flush()
        expected = [_row(0)] if self.keeps_rows and self.survives_reopening else []
        assert reader.read("run") == expected
        writer.close()
        reader.close()

    def test_threads_lose_no_row(self, open_store: Callable[[], MetricsStore]) -> None:
        store = open_store()

        def log(start: int) -> None:
            for step in range(start, start + 50):
                store.log("run", _row(step))

        threads = [threading.Thread(target=log, args=(100 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = sorted(100 * n + k for n in range(4) for k in range(50)) if self.keeps_rows else []
        assert sorted(row.step for row in store.read("run")) == expected
        store.close()

    def test_closing_twice_is_harmless(self, open_store: Callable[[], MetricsStore]) -> None:
        store = open_store()
        store.log("run", _row(0))
        store.close()
        store.close()
