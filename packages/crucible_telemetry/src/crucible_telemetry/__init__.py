"""Append-only event log, metric schemas and metrics stores of Crucible."""
