"""Whether a resumed run goes on with what it began with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_ir import IntegrityError

__all__ = ["require_same"]

_DIGESTS = ("digest", "order_digest", "transform_digest")


def require_same(name: str, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Compare the digests of one part of the provenance with those of the checkpoint, if it has any.

    Raises:
        IntegrityError: a digest differs: going on would mix two runs.
    """
    for part in _DIGESTS:
        known, found = (before or {}).get(part), now.get(part)
        if known is not None and found is not None and known != found:
            raise IntegrityError(
                what=f"the {name} is not the one this run began with ({part} {known[:19]}…, now {found[:19]}…)",
                where=name,
                remedy="restore what was there, or start a new run",
            )
