"""A PythonBridge inside the test's own process, with faults on request."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crucible_ir import ConflictError, DataError, NotFoundError, nearest
from crucible_ir.contract import JsonValue
from crucible_testing.bridge_functions import echo, fail
from crucible_train.ports import BridgeFault, BridgeReply, Handle

__all__ = ["FakeBridge"]


class FakeBridge:
    """Calls ``functions`` right here; ``faults`` says what happens instead of a call to a name.

    ``calls`` keeps every call: name and arguments.
    """

    def __init__(
        self,
        *,
        functions: Mapping[str, Callable[..., JsonValue]] | None = None,
        faults: Mapping[str, BridgeFault] | None = None,
    ) -> None:
        self._functions = dict(functions or {"echo": echo, "fail": fail})
        self.faults = dict(faults or {})
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._closed = False

    def functions(self) -> Sequence[str]:
        """Names of the functions and of the planted faults."""
        return sorted({*self._functions, *self.faults})

    def call(
        self, function: str, arguments: Mapping[str, JsonValue], *, timeout_s: float | None = None
    ) -> Handle[BridgeReply]:
        """The function's value, or its planted fault."""
        if function not in self.functions():
            raise NotFoundError(
                what=f"the bridge has no function {function!r}",
                where="python_bridge",
                remedy=f"did you mean {nearest(function, self.functions())!r}?",
            )
        try:
            kept = json.loads(json.dumps(dict(arguments), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise DataError(what=f"the arguments are not JSON: {error}", where="python_bridge") from error
        if self._closed:
            raise ConflictError(what="the bridge is closed", where="python_bridge")
        self.calls.append((function, kept))
        if function in self.faults:
            return Handle.completed(BridgeReply(fault=self.faults[function], message="planted"))
        try:
            return Handle.completed(BridgeReply(value=self._functions[function](**kept)))
        except Exception as error:  # noqa: BLE001 - a bridge answers whatever a function raises
            return Handle.completed(BridgeReply(fault="error", message=f"{type(error).__name__}: {error}"))

    async def close(self) -> None:
        """Refuse further calls."""
        self._closed = True
