"""Declared metrics, and stores of them."""

from crucible_telemetry.metrics.jsonl import JsonlMetricsStore
from crucible_telemetry.metrics.memory import MemoryMetricsStore, NoopMetricsStore
from crucible_telemetry.metrics.schema import MetricDeclaration, MetricSchema, MetricSpec
from crucible_telemetry.metrics.sqlite import SqliteMetricsStore

__all__ = [
    "JsonlMetricsStore",
    "MemoryMetricsStore",
    "MetricDeclaration",
    "MetricSchema",
    "MetricSpec",
    "NoopMetricsStore",
    "SqliteMetricsStore",
]
