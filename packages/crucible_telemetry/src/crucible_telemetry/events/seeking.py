"""Finding an event in a long log without reading what comes before it."""

from __future__ import annotations

import json
from typing import BinaryIO

__all__ = ["seek_after"]

_NEAR = 1 << 14


def seek_after(stream: BinaryIO, seq: int, start: tuple[int, int], size: int) -> tuple[int, int]:
    """``(number, offset)``: the event ``number ≤ seq`` ends at ``offset``, at most 16 KiB before that of ``seq``.

    Halves the bytes from ``start`` (such a pair too) to ``size``; the events' numbers rise. Where a probe does not
    meet an event, the search ends early, and reading on from there finds out what is wrong.
    """
    number, low = start
    high = size
    while high - low > _NEAR:
        middle = (low + high) // 2
        stream.seek(middle)
        stream.readline()
        place = stream.tell()
        line = stream.readline()
        if place >= high or not line.endswith(b"\n"):
            high = middle
            continue
        probed = _number(line)
        if probed is None:
            break
        if probed <= seq:
            number, low = probed, place + len(line)
        else:
            high = middle
    return number, low


def _number(line: bytes) -> int | None:
    try:
        number = json.loads(line)["seq"]
    except (ValueError, TypeError, KeyError):
        return None
    return number if isinstance(number, int) else None
