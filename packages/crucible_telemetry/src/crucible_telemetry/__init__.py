"""Append-only event log, metric schemas and metrics stores of Crucible."""

from crucible_telemetry.events import EventLog, LogSettings, MemoryEventSink, NoopEventSink
from crucible_telemetry.export import events_to_csv, events_to_jsonl, metrics_to_csv, metrics_to_jsonl
from crucible_telemetry.metrics import (
    JsonlMetricsStore,
    MemoryMetricsStore,
    MetricDeclaration,
    MetricSchema,
    MetricSpec,
    NoopMetricsStore,
    SqliteMetricsStore,
)
from crucible_telemetry.summary import RunningSummary, Summary, percentile, summarize

__all__ = [
    "EventLog",
    "JsonlMetricsStore",
    "LogSettings",
    "MemoryEventSink",
    "MemoryMetricsStore",
    "MetricDeclaration",
    "MetricSchema",
    "MetricSpec",
    "NoopEventSink",
    "NoopMetricsStore",
    "RunningSummary",
    "SqliteMetricsStore",
    "Summary",
    "events_to_csv",
    "events_to_jsonl",
    "metrics_to_csv",
    "metrics_to_jsonl",
    "percentile",
    "summarize",
]
