"""A PythonBridge that runs nothing: every call is answered ``unavailable``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crucible_ir import ConflictError
from crucible_ir.contract import JsonValue
from crucible_train.ports import BridgeReply, Handle

__all__ = ["NoopBridge"]


class NoopBridge:
    """Runs no function and says so; for a machine without the extra ``math``.

    Graders over it judge what pure code can, and cannot judge the rest.
    """

    def __init__(self) -> None:
        self._closed = False

    def functions(self) -> Sequence[str]:
        """No function runs here."""
        return ()

    def call(
        self, function: str, arguments: Mapping[str, JsonValue], *, timeout_s: float | None = None
    ) -> Handle[BridgeReply]:
        """The reply ``unavailable``, whatever is called.

        Raises:
            ConflictError: the bridge is closed.
        """
        if self._closed:
            raise ConflictError(
                what="the bridge is closed", where="python_bridge", remedy="make another bridge"
            )
        message = f"the noop bridge does not run {function!r}; choose the adapter 'math'"
        return Handle.completed(BridgeReply(fault="unavailable", message=message))

    async def close(self) -> None:
        """Refuse further calls."""
        self._closed = True
