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
    if kind == "cost.estimated":
        usd, tokens = data.get("usd"), data.get("tokens") or {}
        price = "unknown" if usd is None else f"{usd:.2f} USD"
        counted = ", ".join(f"{count:,} tokens {done}" for done, count in tokens.items() if count)
        return [f"expected cost: {price} ({counted or 'tokens unknown'}; without: {data.get('without')})"]
    if kind == EventType.LOG and data.get("level") == "warning":
        role = _ROWS_OF.get(str(data.get("role")))
        said = f"{role}: {data['message']}" if role else str(data["message"])
        return [f"{said} (first: {data['first']})" if data.get("first") else said]
    return []
