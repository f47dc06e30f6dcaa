"""Every store and sink of this package keeps the promises of its port."""

from importlib.metadata import entry_points

import pytest

from crucible_telemetry import (
    EventLog,
    JsonlMetricsStore,
    MemoryEventSink,
    MemoryMetricsStore,
    NoopEventSink,
    NoopMetricsStore,
    SqliteMetricsStore,
)
from crucible_testing.contracts.event_sink import EventSinkContract
from crucible_testing.contracts.metrics_store import MetricsStoreContract


class TestJsonlMetricsStore(MetricsStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path):
        return lambda: JsonlMetricsStore(root=tmp_path)


class TestSqliteMetricsStore(MetricsStoreContract):
    @pytest.fixture(params=[1, 7])
    def open_store(self, request, tmp_path):
        return lambda: SqliteMetricsStore(root=tmp_path, batch_rows=request.param)


class TestMemoryMetricsStore(MetricsStoreContract):
    survives_reopening = False

    @pytest.fixture
    def open_store(self, tmp_path):
        return lambda: MemoryMetricsStore(root=tmp_path)


class TestNoopMetricsStore(MetricsStoreContract):
    keeps_rows = False

    @pytest.fixture
    def open_store(self, tmp_path):
        return lambda: NoopMetricsStore(root=tmp_path)


class TestEventLog(EventSinkContract):
    @pytest.fixture
    def open_sink(self, tmp_path):
        return lambda clock: EventLog(tmp_path / "events.jsonl", run_id="run-1", clock=clock)


class TestMemoryEventSink(EventSinkContract):
    survives_reopening = False

    @pytest.fixture
    def open_sink(self):
        return lambda clock: MemoryEventSink(run_id="run-1", clock=clock)


class TestNoopEventSink(EventSinkContract):
    keeps_events = False

    @pytest.fixture
    def open_sink(self):
        return lambda clock: NoopEventSink(run_id="run-1", clock=clock)


def test_every_declared_metrics_store_loads_and_takes_a_root(tmp_path):
    ours = {
        point.name: point
        for point in entry_points(group="crucible.metrics_store")
        if point.value.startswith("crucible_telemetry.")
    }
    assert set(ours) == {"jsonl", "sqlite", "memory", "noop"}
    for point in ours.values():
        point.load()(root=tmp_path).close()
