"""One prepared example: the datum and the identity of the row it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crucible_train.types import Datum

__all__ = ["Example"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A datum with its row's content digest and the conversation it was built from."""

    example_id: str
    datum: Datum
    messages: tuple[dict[str, Any], ...]
