"""Where in the pipeline a run is: a path of positions and turns.

A cursor reads from the outside in: the position in the top sequence; inside a loop the turn and then the
position in its body; inside a condition the branch (0 body, 1 otherwise) and then the position in it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cursor", "Skip"]

Cursor = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Skip:
    """What of a sequence lies behind a cursor."""

    cursor: Cursor

    def passed(self, position: int) -> bool:
        """The node at ``position`` is behind the cursor."""
        return position < self.cursor[0] or (position == self.cursor[0] and len(self.cursor) == 1)

    def within(self, position: int) -> Cursor | None:
        """The rest of the cursor when it lies inside the node at ``position``."""
        return self.cursor[1:] if position == self.cursor[0] and len(self.cursor) > 1 else None
