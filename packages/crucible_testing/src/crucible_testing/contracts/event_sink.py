"""What every EventSink promises."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import ClassVar

import pytest

from crucible_ir import DataError, EventType
from crucible_train.ports import EventSink

__all__ = ["EventSinkContract"]

NOON = datetime(2026, 1, 2, 12, 0, 0, 123456, tzinfo=UTC)


class EventSinkContract:
    """Inherit it and give ``open_sink``: each call opens the same run's sink with the clock given."""

    keeps_events: ClassVar[bool] = True
    survives_reopening: ClassVar[bool] = True

    @pytest.fixture
    def open_sink(self) -> Callable[[Callable[[], datetime]], EventSink]:
        """Opens the sink under test; the argument is its clock."""
        raise NotImplementedError

    @pytest.fixture
    def sink(self, open_sink: Callable[[Callable[[], datetime]], EventSink]) -> Iterator[EventSink]:
        """One open sink; its clock stands still."""
        sink = open_sink(lambda: NOON)
        yield sink
        sink.close()

    def test_it_fits_the_port(self, sink: EventSink) -> None:
        assert isinstance(sink, EventSink)
        assert sink.run_id

    def test_seq_is_contiguous_from_one(self, sink: EventSink) -> None:
        assert [sink.append("x.y").seq for _ in range(5)] == [1, 2, 3, 4, 5]

    def test_what_append_returns_is_what_read_gives(self, sink: EventSink) -> None:
        data = {"text": "ß\n\u2028", "count": 3, "share": 0.1, "none": None, "list": [1, {"a": True}]}
        events = [sink.append(EventType.RUN_CREATED, data), sink.append("x.y")]
        assert events[0].data == data
        assert events[0].type == "run.created"
        assert events[0].run_id == sink.run_id
        assert events[0].at == NOON
        assert sink.read() == (events if self.keeps_events else [])

    def test_read_gives_what_follows_a_seq_up_to_a_limit(self, sink: EventSink) -> None:
        events = [sink.append("x.y", {"n": n}) for n in range(6)]
        kept = events if self.keeps_events else []
        assert sink.read(after=2) == kept[2:]
        assert sink.read(after=2, limit=2) == kept[2:4]
        assert sink.read(after=0, limit=1) == kept[:1]
        assert sink.read(after=6) == []
        assert sink.read(after=99) == []
        assert sink.read(after=0, limit=0) == []

    def test_polling_with_the_last_seq_gives_each_event_once(self, sink: EventSink) -> None:
        seen: list[int] = []
        for n in range(4):
            sink.append("x.y", {"n": n})
            sink.append("x.y", {"n": n})
            seen += [event.seq for event in sink.read(after=seen[-1] if seen else 0)]
        assert seen == (list(range(1, 9)) if self.keeps_events else [])

    def test_a_clock_that_goes_backwards_leaves_the_order(
        self, open_sink: Callable[[Callable[[], datetime]], EventSink]
    ) -> None:
        times = [NOON, NOON.replace(year=2020), NOON.replace(year=2031)]
        ticks = iter(times)
        sink = open_sink(lambda: next(ticks))
        events = [sink.append("x.y") for _ in times]
        assert [event.at for event in events] == times
        assert [event.seq for event in sink.read()] == ([1, 2, 3] if self.keeps_events else [])
        sink.close()

    def test_numbers_that_json_lacks_become_words(self, sink: EventSink) -> None:
        event = sink.append("x.y", {"loss": math.nan, "deep": [math.inf, -math.inf]})
        assert event.data == {"loss": "NaN", "deep": ["Infinity", "-Infinity"]}

    def test_values_that_json_lacks_are_refused_with_their_path(self, sink: EventSink) -> None:
        with pytest.raises(DataError, match=r"data\.a\[1\]\.b"):
            sink.append("x.y", {"a": [0, {"b": object()}]})
        assert sink.append("x.y").seq == 1

    def test_reopening_goes_on_with_the_next_seq(
        self, open_sink: Callable[[Callable[[], datetime]], EventSink]
    ) -> None:
        first = open_sink(lambda: NOON)
        first.append("x.y")
        first.close()
        first.close()
        second = open_sink(lambda: NOON)
        expected = 2 if self.keeps_events and self.survives_reopening else 1
        assert second.append("x.y").seq == expected
        second.close()

    def test_threads_share_one_sequence(self, sink: EventSink) -> None:
        seqs: list[int] = []
        threads = [
            threading.Thread(target=lambda: seqs.extend(sink.append("x.y").seq for _ in range(25)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(seqs) == list(range(1, 101))
        assert [event.seq for event in sink.read()] == (list(range(1, 101)) if self.keeps_events else [])
