"""The error of a conversation that a renderer cannot put into tokens, or of tokens it cannot read back."""

from __future__ import annotations

from crucible_ir.errors import DataError

__all__ = ["RenderError"]


class RenderError(DataError):
    """A renderer cannot express what it was given; nothing is ever dropped instead."""
