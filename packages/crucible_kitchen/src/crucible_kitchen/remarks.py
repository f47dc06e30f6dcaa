"""What a person should read about a run beside its figures: rows that were left out and why, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_ir import EventType

__all__ = ["remarks"]

_ROWS_OF = {"train": "training rows", "held_out": "held-out rows"}


def remarks(kind: str, data: Mapping[str, Any]) -> list[str]:
    """Sentences about an event of type ``kind``; most events give none."""
    if kind == EventType.DATASET_LOADED:
        rows = _ROWS_OF.get(str(data.get("role")), "rows")
        return [
            f"left out {drop['count']} of the {rows}: {drop['reason']} (first at {drop['first']})"
            for drop in data.get("drops", ())
        ]
    if kind == EventType.RUN_RESUMED and data.get("processes_before", 1) != data.get("processes", 1):
        return [
            f"goes on in {data.get('processes', 1)} instead of {data.get('processes_before', 1)} processes: "
            "the same to rounding in float32, not bit for bit"
        ]
    if kind == "cost.estimated":
        counted = _tokens(data) or "tokens unknown"
        return [f"expected cost: {_usd(data)} ({counted}; without: {data.get('without')})"]
    if kind == "cost.reconciled":
        return [_reconciled(data)]
    if kind == EventType.LOG and data.get("level") == "warning":
        role = _ROWS_OF.get(str(data.get("role")))
        said = f"{role}: {data['message']}" if role else str(data["message"])
        return [f"{said} (first: {data['first']})" if data.get("first") else said]
    return []


def _usd(cost: Mapping[str, Any]) -> str:
    usd = cost.get("usd")
    return "unknown" if usd is None else f"{usd:.2f} USD"


def _tokens(cost: Mapping[str, Any]) -> str:
    tokens = cost.get("tokens") or {}
    return ", ".join(f"{count:,} tokens {done}" for done, count in tokens.items() if count)


def _reconciled(data: Mapping[str, Any]) -> str:
    """What was used, then what was expected and by how much it was missed."""
    used, estimated = data["used"], data["estimated"]
    said = f"cost: {_usd(used)} ({_tokens(used) or 'no tokens'})"
    if not estimated["tokens"]:
        return f"{said}; nothing was expected"
    apart = ", ".join(f"{name} {share:+.1%}" for name, share in data["difference"].items())
    return f"{said}; expected {_usd(estimated)} ({_tokens(estimated)}, without: {data['without']}): {apart}"
