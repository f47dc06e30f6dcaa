"""Logs of what happens to a run."""

from crucible_telemetry.events.log import EventLog, LogSettings
from crucible_telemetry.events.memory import MemoryEventSink, NoopEventSink

__all__ = ["EventLog", "LogSettings", "MemoryEventSink", "NoopEventSink"]
